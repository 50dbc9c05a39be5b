"""Foreign engines as child processes: how each is started from what the registry knows, and that none is left behind."""
