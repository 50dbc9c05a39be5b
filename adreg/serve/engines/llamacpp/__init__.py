"""llama.cpp behind the gateway: its files, its process, how it is asked, and how its set of adapters changes."""
