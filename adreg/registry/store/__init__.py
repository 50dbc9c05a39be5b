"""What keeps bytes and rows: SQLite with every safeguard on, and content-addressed blobs. Knows nothing of adapters."""
