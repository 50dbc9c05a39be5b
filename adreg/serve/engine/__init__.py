"""The engine: one thread that admits, steps and ends sequences, and what it decides by."""
