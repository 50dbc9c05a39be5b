"""The model that is trained: a base, an adapter method on it, and the layers that compute it fast. Knows no data."""
