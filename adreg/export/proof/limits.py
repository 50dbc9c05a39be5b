"""How far an artifact of each type may be from the adapters on their base. Nothing but measured numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest and the mean |delta| and the mean divergence (nats) that a file of a type may show, and how far the
    share of the adapters' effect may be from 1 where rounding is small beside it."""

    max_delta: float
    mean_delta: float
    divergence: float
    effect: float = 0.25


# Two to three times the worst of SmolLM2-135M-Instruct with two trained adapters and a weak random one, its weights moved
# off the Q4_1 grid on which it is packaged, and its rows once more padded to whole K-quant blocks (but for Q2_K, of which
# no model this small survives). F32 measures adreg alone (0.0003); the rest is llama.cpp on a CPU, which also rounds the
# activations. Up to five bits a forgotten adapter may keep the first three: then the share tells, which was 0.68 to 1.20
# for trained adapters that are there, at most 0.49 without the factor of rsLoRA, and 0 for forgotten ones.
LIMITS = {
    "ALL_F32": Limits(0.005, 0.001, 0.0001),
    "MOSTLY_F16": Limits(0.06, 0.008, 0.0005),
    "MOSTLY_BF16": Limits(1.0, 0.08, 0.002),
    "MOSTLY_Q8_0": Limits(2.5, 0.3, 0.015),
    "MOSTLY_Q6_K": Limits(6.0, 0.8, 0.15),
    "MOSTLY_Q5_K_M": Limits(9.0, 1.1, 0.2, 0.4),
    "MOSTLY_Q5_K_S": Limits(9.0, 1.1, 0.2, 0.4),
    "MOSTLY_Q5_1": Limits(9.0, 1.1, 0.2, 0.4),
    "MOSTLY_Q5_0": Limits(12.0, 1.2, 0.25, 0.4),
    "MOSTLY_Q4_K_M": Limits(14.0, 1.4, 0.3, 0.4),
    "MOSTLY_Q4_K_S": Limits(14.0, 1.6, 0.4, 0.4),
    "MOSTLY_Q4_1": Limits(18.0, 1.6, 0.4, 0.4),
    "MOSTLY_Q4_0": Limits(18.0, 2.8, 0.9, 0.4),
    "MOSTLY_Q3_K_M": Limits(20.0, 2.8, 0.9, 0.4),
    "MOSTLY_Q2_K": Limits(24.0, 3.8, 1.2, 0.4),
}
# a merged checkpoint is rounded once to its base's type, and computed in float32
CHECKPOINT_LIMITS = {"F32": LIMITS["ALL_F32"], "F16": LIMITS["MOSTLY_F16"], "BF16": LIMITS["MOSTLY_BF16"]}
# before any rounding
MERGED_LIMIT = 0.005
