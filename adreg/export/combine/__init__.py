"""Several adapters into one: the methods, their factors, and the new adapter's files. Knows updates, no base weights."""
