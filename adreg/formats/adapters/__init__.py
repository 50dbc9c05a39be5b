"""Adapters as they lie there: every family, its configuration and keys, and the exact spectra of its updates."""
