"""How far llama.cpp's log probabilities lie from the reference's, and how much of the adapter's effect is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32

# by how much of its effect an adapter may seem stronger or weaker before one looks closer, and what it may be for
# every time that the noise is the effect
DOUBT, NOISE_TOLERANCE = 0.25, 0.15


@dataclass(frozen=True)
class Agreement:
    """Over all compared tokens, `noise` is llama.cpp minus reference, `effect` reference minus bare base (nats).

    `divergence` is the Kullback-Leibler divergence (nats) from the reference at each position, the tokens that were not
    compared counted as one; so it is at most the true one. `unadapted` is the agreement of the bare base in the file's type.
    """

    noise: NDArray[np.float64]
    effect: NDArray[np.float64]
    top1: tuple[bool, ...]
    divergence: tuple[float, ...]
    unadapted: Agreement | None = None

    @property
    def max_delta(self) -> float:
        return float(np.abs(self.noise).max())

    @property
    def mean_delta(self) -> float:
        return float(np.abs(self.noise).mean())

    @property
    def mean_divergence(self) -> float:
        return sum(self.divergence) / len(self.divergence)

    @property
    def effect_share(self) -> float | None:
        """How much of the adapter is in the file: 1 when it is, 0 when it was forgotten, 2 when it counts double.

        The least-squares slope of what llama.cpp shows beyond the bare base, over what the adapter does. It finds
        what the deltas of a coarse type drown, and more so beyond what the base shows in that type without the
        adapter: coarse rounding alone looks like up to three times the effect of a weak one. None where there is no
        effect to find.
        """
        if not self.effect.any():
            return None
        return self._slope - (self.unadapted._slope if self.unadapted else 0.0)

    @property
    def _slope(self) -> float:
        return float((self.noise + self.effect) @ self.effect) / float(self.effect @ self.effect)

    def effect_tolerance(self, least: float) -> float:
        """How far the share may be from 1: `least`, or more where the adapter does less than the rounding."""
        return max(least, NOISE_TOLERANCE * self._noise_to_effect)

    @property
    def is_doubtful(self) -> bool:
        """Whether the share says little, or that the adapter is not there, before it is known what the rounding shows."""
        share = self.effect_share
        return share is not None and (abs(share - 1) > DOUBT or self._noise_to_effect > 1)

    @property
    def _noise_to_effect(self) -> float:
        rounding = self.unadapted.noise + self.unadapted.effect if self.unadapted else self.noise
        return float(np.abs(rounding).mean() / max(np.abs(self.effect).mean(), 1e-9))


def compare(found: Sequence[Mapping[int, float]], adapted: Float32, bare: Float32) -> Agreement:
    """Compare the likeliest tokens of llama.cpp, one mapping of log probabilities a position, with the rows of two
    (positions, vocabulary) references: the adapters on the base, and the base alone."""
    noise, effect, top1, divergence = [], [], [], []
    for likely, with_adapter, without in zip(found, adapted, bare, strict=True):
        tokens = list(likely)
        found_here = np.array([likely[token] for token in tokens], dtype=np.float64)
        noise.append(found_here - with_adapter[tokens])
        divergence.append(divergence_of(with_adapter[tokens].astype(np.float64), found_here))
        effect.append(with_adapter[tokens].astype(np.float64) - without[tokens])
        top1.append(max(likely, key=lambda token: likely[token]) == int(with_adapter.argmax()))
    return Agreement(np.concatenate(noise), np.concatenate(effect), tuple(top1), tuple(divergence))


def divergence_of(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """The divergence (nats) of two distributions known by some of their log probabilities, the rest of each as one."""
    p, q = np.exp(reference), np.exp(found)
    rest_p, rest_q = max(1 - float(p.sum()), 1e-12), max(1 - float(q.sum()), 1e-12)
    return float((p * (reference - found)).sum() + rest_p * (np.log(rest_p) - np.log(rest_q)))
