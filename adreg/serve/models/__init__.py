"""What is served under which name, live on the registry, and what of it may be served."""
