"""What one optimizer step computes: batches, the forward pass and the objective's loss. Knows no files."""
