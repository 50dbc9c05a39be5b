"""Random numbers that depend on a seed and on how many tokens came before, and on nothing else: no state, no order."""

from __future__ import annotations

import secrets
from hashlib import blake2b


class Noise:
    """One number for each token of a sequence; the same `seed` gives the same ones, None a new 64-bit seed.

    A keyed hash (BLAKE2b) of the token's index, so that no number depends on which ones were drawn before.
    """

    def __init__(self, seed: int | None) -> None:
        chosen = secrets.randbits(64) if seed is None else seed
        self._key = blake2b(str(chosen).encode(), digest_size=32).digest()

    def uniform(self, index: int) -> float:
        """The number of token `index`, uniform over the multiples of 2⁻⁵³ in [0, 1)."""
        digest = blake2b(index.to_bytes(8, "little"), digest_size=8, key=self._key).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
