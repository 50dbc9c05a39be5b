"""The executor for any transformers decoder, unmodified: flat ragged steps, LoRA by hooks. Knows no requests, no HTTP."""
