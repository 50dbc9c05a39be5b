"""Ollama: Modelfiles, its HTTP API, and its store on disk."""
