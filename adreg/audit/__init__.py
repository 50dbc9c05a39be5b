"""Rules: pure functions from an adapter and a base card to findings. Knows nothing of where adapters are stored."""
