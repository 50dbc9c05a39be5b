"""Tokenizers and chat templates: their files, their ids, and what a template does under strict limits."""
