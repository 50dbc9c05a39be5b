"""Which blobs a check reads whole: all, one part of several, or a share. Knows digests, not files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adreg.errors import UsageError


@dataclass(frozen=True)
class StoredBlob:
    """A row of the blob table; `used` tells whether a version or a base needs it, `verified_at` when it was last read."""

    digest: str
    size: int
    state: str = "ok"
    verified_at: str | None = None
    used: bool = True


@dataclass(frozen=True)
class ReadData:
    """Part `part` of `parts` by digest, and of that `percent`, those first that were not read for longest."""

    part: int = 1
    parts: int = 1
    percent: float = 100.0

    def choose(self, blobs: Sequence[StoredBlob]) -> list[StoredBlob]:
        """The blobs to read, in the order of their digests."""
        here = [blob for blob in blobs if int(blob.digest[7:15], 16) % self.parts == self.part - 1]
        oldest = sorted(here, key=lambda blob: (blob.verified_at or "", blob.digest))
        count = -(-len(here) * self.percent // 100)
        return sorted(oldest[: int(count)], key=lambda blob: blob.digest)


def parse_read_data(text: str) -> ReadData:
    """`all`, `n/t` or `x%`. Raises `UsageError`."""
    if text == "all":
        return ReadData()
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text, re.ASCII)
    if share and 0 < float(share[1]) <= 100:
        return ReadData(percent=float(share[1]))
    part = re.fullmatch(r"([1-9]\d{0,4})/([1-9]\d{0,4})", text, re.ASCII)
    if part and int(part[1]) <= int(part[2]):
        return ReadData(int(part[1]), int(part[2]))
    raise UsageError(
        f"{text!r} is no share of the blobs", "--read-data, --read-data=2/5 (the second of five parts) or --read-data=10%"
    )
