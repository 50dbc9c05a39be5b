"""How far llama.cpp's log probabilities lie from the reference's, and how much of the adapter's effect is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adreg.formats.dtypes import Float32

EFFECT_TOLERANCE = 0.25


@dataclass(frozen=True)
class Limits:
    """The largest and the mean |delta| (nats) that a file of a type may show."""

    max_delta: float
    mean_delta: float


# Two to three times what SmolLM2-135M-Instruct showed with adapters of three strengths. F32 measures adreg alone
# (0.0003); the rest is llama.cpp on a CPU, which also rounds the activations to the type of the weights.
LIMITS = {
    "ALL_F32": Limits(0.005, 0.001),
    "MOSTLY_F16": Limits(0.06, 0.006),
    "MOSTLY_BF16": Limits(0.3, 0.04),
    "MOSTLY_Q8_0": Limits(2.0, 0.25),
}
# a merged checkpoint is rounded once to its base's type, and computed in float32
CHECKPOINT_LIMITS = {"F32": Limits(0.005, 0.001), "F16": Limits(0.06, 0.006), "BF16": Limits(0.3, 0.04)}
MERGED_LIMIT = 0.005


@dataclass(frozen=True)
class Agreement:
    """Over all compared tokens, `noise` is llama.cpp minus reference, `effect` reference minus bare base (nats).

    `divergence` is the Kullback-Leibler divergence (nats) from the reference at each position, the tokens that were not
    compared counted as one; so it is at most the true one.
    """

    noise: NDArray[np.float64]
    effect: NDArray[np.float64]
    top1: tuple[bool, ...]
    divergence: tuple[float, ...]

    @property
    def max_delta(self) -> float:
        return float(np.abs(self.noise).max())

    @property
    def mean_delta(self) -> float:
        return float(np.abs(self.noise).mean())

    @property
    def effect_share(self) -> float | None:
        """How much of the adapter is in the file: 1 when it is, 0 when it was forgotten, 2 when it counts double.

        The least-squares slope of what llama.cpp shows beyond the bare base, over what the adapter does. It finds
        what the deltas of a coarse type drown. None where there is no effect to find.
        """
        power = float(self.effect @ self.effect)
        return float((self.noise + self.effect) @ self.effect) / power if power > 0 else None

    @property
    def effect_tolerance(self) -> float:
        """How far the share may be from 1; more where the adapter does less than the rounding."""
        return EFFECT_TOLERANCE * max(1.0, self.mean_delta / max(float(np.abs(self.effect).mean()), 1e-9))


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
