"""GGUF files: a strict reader, and what they hold in Hugging Face's terms."""
