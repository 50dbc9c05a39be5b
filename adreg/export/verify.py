"""Runs a GGUF file in real llama.cpp and compares it with the adapters on their base: tokens, logits, chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adreg.errors import VerificationFailed
from adreg.export.agreement import LIMITS, Agreement, Limits, compare
from adreg.export.corpus import CONVERSATIONS, PASSAGE, corpus
from adreg.export.extras import need
from adreg.export.llamacpp import LlamaCpp, llamacpp
from adreg.export.plan import chosen_template
from adreg.export.reference import Reference, open_reference
from adreg.export.targets import Source
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.gguf.header import read_gguf
from adreg.progress import SILENT, Progress

POSITIONS, TOP, FIRST = 32, 50, 8
MODES = ((False, False), (False, True), (True, True))


@dataclass(frozen=True)
class Verification:
    """How a GGUF file behaves against its reference. The deltas are of log probabilities (nats).

    `lines` were tokenised in each of the ways that llama.cpp and transformers share; after each of `positions`
    prefixes the 50 tokens that llama.cpp finds likeliest were compared. `adapter_effect` is 1 when the adapters act
    in the file as they do on the base, 0 when they are not in it; None without adapters.
    """

    file_type: str
    lines: int
    tokenization_differences: int
    positions: int
    max_delta_logprob: float
    mean_delta_logprob: float
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
            raise VerificationFailed("the GGUF file does not behave as the adapter on its base: " + "; ".join(self.failures))


def verify_gguf(
    path: Path,
    base: Checkpoint,
    sources: tuple[Source, ...],
    chat_template: str | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Compare the file at `path` with `sources` on `base`; `chat_template` as in the request that made the file.

    Needs the base in float32 in memory. Raises `MissingExtra`, and `VerificationFailed` when llama.cpp cannot load
    the file; everything else is in the answer.
    """
    need("llamacpp", "xllamacpp")
    reference = open_reference(base, sources)
    template, lines = chosen_template(base, sources, chat_template), tokenizer_lines(base)
    ids = reference.tokenize(PASSAGE, add_special=True, parse_special=True)[: FIRST + POSITIONS + 1]
    with progress.task("verify", 4) as task:
        adapted, bare = reference.log_probabilities(ids)
        task.advance(1, "reference")
        with llamacpp(path, context=2 * len(ids)) as model:
            task.advance(1, "llama.cpp")
            wrong_lines = len(different_lines(model, reference, lines))
            task.advance(1, "tokens")
            found = [model.next_tokens(ids[:length], TOP, ids[length]) for length in range(FIRST, len(ids) - 1)]
            wrong_prompts = list(_prompt_differences(model, reference, template))
            task.advance(1, "log probabilities and chat template")
    rows = slice(FIRST - 1, len(ids) - 2)
    agreement = compare(found, adapted[rows], bare[rows])
    return judge(*type_and_limits(path), len(lines), wrong_lines, agreement, wrong_prompts)


def judge(
    kind: str, limits: Limits, lines: int, wrong_lines: int, agreement: Agreement, wrong_prompts: Sequence[bool]
) -> Verification:
    """The verdict on what was found in a file of type `kind`, by `limits`."""
    share = agreement.effect_share
    failures = []
    if wrong_lines:
        failures.append(f"{wrong_lines} of {lines} lines become other tokens")
    if not (agreement.max_delta <= limits.max_delta and agreement.mean_delta <= limits.mean_delta):
        allowed = f"{limits.max_delta} and {limits.mean_delta} are allowed"
        failures.append(
            f"log probabilities are off by {agreement.max_delta:.4f}, on average {agreement.mean_delta:.4f}; {allowed}"
        )
    if share is not None and not abs(share - 1) <= agreement.effect_tolerance:
        failures.append(f"{share:.0%} of the adapter's effect is in the file")
    if any(wrong_prompts):
        failures.append(f"{sum(wrong_prompts)} of {len(wrong_prompts)} conversations become other prompts")
    return Verification(
        file_type=kind,
        lines=lines,
        tokenization_differences=wrong_lines,
        positions=len(agreement.top1),
        max_delta_logprob=agreement.max_delta,
        mean_delta_logprob=agreement.mean_delta,
        top1_agreement=sum(agreement.top1) / len(agreement.top1),
        adapter_effect=share,
        conversations=len(wrong_prompts),
        template_differences=sum(wrong_prompts),
        failures=tuple(failures),
    )


def type_and_limits(path: Path) -> tuple[str, Limits]:
    """The type of the file at `path` and the limits it must keep: bf16's where its weights went through bf16."""
    from gguf import LlamaFileType

    fields = read_gguf(path).fields
    kind = str(LlamaFileType(fields["general.file_type"]).name)
    if kind not in LIMITS:
        raise VerificationFailed(f"{path} has the file type {kind}, for which adreg has no limits")
    through_bf16 = fields.get("adreg.merge.precision") == "compat" and kind in ("ALL_F32", "MOSTLY_F16")
    return kind, LIMITS["MOSTLY_BF16" if through_bf16 else kind]


def tokenizer_lines(base: Checkpoint) -> list[str]:
    """The corpus for the tokenizer of `base`. llama.cpp never normalises Unicode, so a tokenizer that does is only
    compared on text that is in its normal form already."""
    definition = base.tokenizer.definition or {}
    special = [token["content"] for token in definition.get("added_tokens") or [] if token["special"]]
    return corpus(special, decomposed=definition.get("normalizer") is None)


def different_lines(model: LlamaCpp, reference: Reference, lines: Sequence[str]) -> list[str]:
    """The lines that do not become the same tokens in every way that both can read them."""
    return [line for line in lines if any(model.tokenize(line, *mode) != reference.tokenize(line, *mode) for mode in MODES)]


def _prompt_differences(model: LlamaCpp, reference: Reference, template: str | None) -> Iterator[bool]:
    """Whether each conversation becomes another prompt. Nothing is compared where there is no template."""
    for messages in CONVERSATIONS if template is not None else ():
        expected = reference.render(messages, template or "")
        yield _without_bos(model.render(messages), reference) != _without_bos(expected, reference)


def _without_bos(prompt: str | None, reference: Reference) -> str | None:
    """llama.cpp leaves a leading beginning-of-text token to its tokenizer."""
    bos = reference.tokenizer.bos_token
    return prompt.removeprefix(bos) if prompt and bos else prompt
