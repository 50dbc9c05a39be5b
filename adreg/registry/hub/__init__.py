"""The Hugging Face Hub: pinned, checked copies from it, and commits with a model card to it. Knows no rows."""
