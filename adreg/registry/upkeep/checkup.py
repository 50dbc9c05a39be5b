"""One thing that `doctor` looked at, and what it thinks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """`state` is ok, warn or bad; `advice` says what to do when it is not ok."""

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str = ""
