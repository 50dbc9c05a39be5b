"""adreg: LoRA adapters from training to serving, each tied by content hash to its base."""

__version__ = "0.1.0"
