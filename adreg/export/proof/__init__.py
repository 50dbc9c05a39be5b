"""Whether an artifact does what the adapters do on their base: the reference in transformers, llama.cpp, and the verdict."""
