"""What was found in an artifact, and the verdict on it. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from adreg.errors import VerificationFailed
from adreg.export.proof.agreement import Agreement
from adreg.export.proof.limits import MERGED_LIMIT, Limits


@dataclass(frozen=True)
class Verification:
    """How an artifact behaves against its reference. The deltas are of log probabilities (nats).

    `lines` were tokenised in each of the ways that llama.cpp and transformers share; after each of `positions`
    beginnings of texts the 50 tokens that are likeliest there were compared.
    `merged_max_delta` is that of the merged weights before they are rounded to the artifact's type, over all tokens.
    `adapter_effect` is 1 when the adapters act in the file as they do on the base, 0 when they are not in it; None
    without adapters.
    """

    file_type: str
    lines: int
    tokenization_differences: int
    positions: int
    max_delta_logprob: float
    mean_delta_logprob: float
    mean_divergence: float
    merged_max_delta: float | None
    top1_agreement: float
    adapter_effect: float | None
    conversations: int
    template_differences: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def require(self) -> None:
        """Raise `VerificationFailed` unless the file passes."""
        if not self.passed:
            raise VerificationFailed("the artifact does not behave as the adapter on its base: " + "; ".join(self.failures))


@dataclass(frozen=True)
class Counts:
    """Lines and conversations that were compared, and how many of each came out differently."""

    lines: int = 0
    wrong_lines: int = 0
    conversations: int = 0
    wrong_conversations: int = 0


def judge(kind: str, limits: Limits, agreement: Agreement, counts: Counts, merged: float | None = None) -> Verification:
    """The verdict on what was found in an artifact of type `kind`, by `limits`; `merged` as `merged_max_delta`."""
    return Verification(
        file_type=kind,
        lines=counts.lines,
        tokenization_differences=counts.wrong_lines,
        positions=len(agreement.top1),
        max_delta_logprob=agreement.max_delta,
        mean_delta_logprob=agreement.mean_delta,
        mean_divergence=agreement.mean_divergence,
        merged_max_delta=merged,
        top1_agreement=sum(agreement.top1) / len(agreement.top1),
        adapter_effect=agreement.effect_share,
        conversations=counts.conversations,
        template_differences=counts.wrong_conversations,
        failures=tuple(_failures(limits, agreement, counts, merged)),
    )


def _failures(limits: Limits, agreement: Agreement, counts: Counts, merged: float | None) -> Iterator[str]:
    share = agreement.effect_share
    if counts.wrong_lines:
        yield f"{counts.wrong_lines} of {counts.lines} lines become other tokens"
    if merged is not None and not merged <= MERGED_LIMIT:
        yield f"the merged weights are off by {merged:.4f} before any rounding; {MERGED_LIMIT} is allowed"
    for measure, found, allowed in _measures(limits, agreement):
        if not found <= allowed:
            yield f"{measure} {found:.4f}; {allowed} is allowed"
    if share is not None and not abs(share - 1) <= agreement.effect_tolerance(limits.effect):
        yield f"{share:.0%} of the adapter's effect is in the file"
    if counts.wrong_conversations:
        yield f"{counts.wrong_conversations} of {counts.conversations} conversations become other prompts"


def _measures(limits: Limits, agreement: Agreement) -> Iterator[tuple[str, float, float]]:
    yield "log probabilities are off by", agreement.max_delta, limits.max_delta
    yield "log probabilities are on average off by", agreement.mean_delta, limits.mean_delta
    yield "the mean divergence of the distributions is", agreement.mean_divergence, limits.divergence
