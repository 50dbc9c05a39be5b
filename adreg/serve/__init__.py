"""One base and many adapters over one HTTP port. Knows nothing of training or exporting."""
