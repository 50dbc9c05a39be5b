"""From data and a recipe to an adapter folder and its run record. Knows nothing of HTTP or GGUF."""
