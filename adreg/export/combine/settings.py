"""How several adapters become one: the method and its settings, checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from adreg.errors import UsageError


class Method(StrEnum):
    """All work on the updates themselves, scaling included: never on A and B apart, whose product has cross terms.

    linear: the weighted sum, in the smallest rank that holds it. cat: the same sum, every factor as it is. svd: the
    nearest update of the wanted rank. ties, dare_ties, magnitude_prune: thinned, and the first two with one sign elected
    a weight. Sources: arXiv 2306.01708 (TIES), 2311.03099 (DARE); peft utils/merge_utils.py for the details.
    """

    LINEAR = "linear"
    CAT = "cat"
    SVD = "svd"
    TIES = "ties"
    DARE_TIES = "dare_ties"
    MAGNITUDE_PRUNE = "magnitude_prune"

    @property
    def is_sparse(self) -> bool:
        """Whether it thins the updates, which leaves them without a low rank."""
        return self in (Method.TIES, Method.DARE_TIES, Method.MAGNITUDE_PRUNE)


@dataclass(frozen=True)
class Combination:
    """`density` is the share of each update that a thinning method keeps, `rank` that of the result where the method
    leaves it open (None: the largest of the sources), `seed` decides what dare_ties drops.

    Raises `UsageError` for settings that the method cannot have.
    """

    method: Method = Method.LINEAR
    density: float | None = None
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method.is_sparse and not (self.density is not None and 0 < self.density <= 1):
            raise UsageError(f"{self.method} keeps a share of each update", "say which with --density, such as 0.5")
        if self.density is not None and not self.method.is_sparse:
            raise UsageError(f"{self.method} drops nothing, so it has no density", "use ties, dare_ties or magnitude_prune")
        if self.rank is not None and (self.rank < 1 or self.method in (Method.LINEAR, Method.CAT)):
            raise UsageError(f"{self.method} cannot have the rank {self.rank}", "use svd, or leave out --rank")

    @property
    def is_sum(self) -> bool:
        """Whether it is the weighted sum of the updates, however it is written down."""
        return self.method in (Method.LINEAR, Method.CAT)

    @property
    def kept(self) -> float:
        """The share of each update that stays."""
        return 1.0 if self.density is None else self.density

    def record(self) -> dict[str, str]:
        """The settings as they are written into what is made."""
        chosen = {"method": self.method.value, "density": self.density, "rank": self.rank}
        chosen |= {"seed": self.seed} if self.method is Method.DARE_TIES else {}
        return {key: str(value) for key, value in chosen.items() if value is not None}
