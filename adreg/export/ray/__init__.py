"""Adapters laid out where Ray Serve LLM looks for them."""
