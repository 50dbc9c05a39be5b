"""What lies on disk: safetensors, PEFT adapters, checkpoints, tokenizers, GGUF, fingerprints. No torch, SQLite or HTTP."""
