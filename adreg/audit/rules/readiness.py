"""X: whether an engine takes it, by the engine's own rules. The matrix itself is `audit/targets.py`."""

from __future__ import annotations
