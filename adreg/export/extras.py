"""Says by name which optional dependency is missing, before the work that needs it begins."""

from __future__ import annotations

import importlib.util

from adreg.errors import MissingExtra


def need(extra: str, *packages: str) -> None:
    """Raise `MissingExtra` for the first of `packages` that is not installed; `extra` brings them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, extra)
