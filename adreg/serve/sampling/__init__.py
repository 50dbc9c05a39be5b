"""The choice of the next token of one sequence from its logits, in numpy. Knows no model and no other sequence."""
