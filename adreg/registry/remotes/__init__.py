"""Registries elsewhere, and what is exchanged with them. Knows how to ask and to check, not what is stored here."""
