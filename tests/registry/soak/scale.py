"""How much of the soak runs: a share in `make test`, all of it where ADREG_SOAK is `full`."""

from __future__ import annotations

import os
import random

ALL = 1_000_000
FULL = os.environ.get("ADREG_SOAK") == "full"


def amount(full: int, share: int) -> int:
    """`full` in the soak, `share` elsewhere."""
    return full if FULL else share


def chosen(count: int, most: int, seed: object) -> list[int]:
    """At most `most` of `count` places, drawn by `seed`: the same every time."""
    return sorted(random.Random(str(seed)).sample(range(count), min(count, most)))
