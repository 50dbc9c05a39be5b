"""The command line: one module a noun, one output sink, and the one place where errors become text."""
