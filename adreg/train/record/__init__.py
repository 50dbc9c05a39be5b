"""What a run leaves: its record, metrics, plots, samples and the adapter's folder. Knows no training."""
