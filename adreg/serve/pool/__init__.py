"""Adapters on their way into the executor's slots and out again. Knows digests, bytes and time, not names or requests."""
