"""Records: bases, adapters, versions, aliases, runs and artifacts, in SQLite and content-addressed blobs. No torch."""
