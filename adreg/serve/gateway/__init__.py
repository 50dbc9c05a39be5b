"""The router in front of engines: requests, upstream engines and names. Knows nothing of models or tensors."""
