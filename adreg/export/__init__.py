"""From base and adapters to merged safetensors and GGUF, verified in llama.cpp. Knows nothing of training or serving."""
