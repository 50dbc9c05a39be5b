"""Writes GGUF files as llama.cpp reads them: tensors, metadata and tokenizer. Knows nothing of PEFT's files."""
