"""Bases as they lie there: checkpoints, the ids of what they hold, and samples of them."""
