"""How much one request may ask of the server. Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. `disk_reserve` stays free whatever is uploaded."""

    json_body: int = 1 << 20
    json_depth: int = 16
    blob: int = 32 << 30
    disk_reserve: int = 256 << 20
    uploads: int = 8
    idle_seconds: float = 60.0
    upload_kept_seconds: float = 24 * 3600.0
