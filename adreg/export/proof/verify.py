"""Compares an artifact with the adapters on their base: logits, and in real llama.cpp also tokens and chat template."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from adreg.errors import UnsupportedError, VerificationFailed
from adreg.export.changes.source import Source
from adreg.export.extras import need
from adreg.export.fold.folded import Folded
from adreg.export.gguf.exactness import is_comparable, is_sentencepiece
from adreg.export.gguf.phi3 import original_context
from adreg.export.gguf.writer import write_gguf
from adreg.export.plan import MergePlan, plan_merge
from adreg.export.proof.agreement import compare
from adreg.export.proof.corpus import CONVERSATIONS, corpus
from adreg.export.proof.limits import CHECKPOINT_LIMITS, LIMITS, Limits
from adreg.export.proof.llamacpp import LlamaCpp, llamacpp
from adreg.export.proof.reference import Passage, Reference, open_reference
from adreg.export.proof.verdict import Counts, Verification, judge
from adreg.export.request import chosen_template
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.bases.modelconfig import rope
from adreg.formats.dtypes import Float32
from adreg.formats.gguf.header import read_gguf
from adreg.progress import SILENT, Progress

MEMORY = Path("/proc/meminfo")
TOP, CONTEXT = 50, 256
MODES = ((False, False), (False, True), (True, True))


@dataclass(frozen=True)
class Subject:
    """What an artifact is compared with: `sources` on `base`, and the `folds` that went into it.

    With `combined`, no set of adapters on the base computes what was written: then the folds are the reference.
    """

    base: Checkpoint
    sources: tuple[Source, ...]
    folds: Mapping[str, Folded] | None = None
    chat_template: str | None = None
    combined: bool = False


def verify_merge(plan: MergePlan, path: Path, progress: Progress = SILENT) -> Verification:
    """Compare what was written to `path` by `plan` with what it should do; as `verify_gguf` and `verify_checkpoint`.

    A GGUF adapter is run on its base, which is written for that in float32 and removed again. So is the base of a merged
    file in the file's own type, where its rounding leaves doubt about the adapters.
    """
    request = plan.request
    subject = Subject(request.base, request.sources, plan.folds, request.chat_template, not request.combination.is_sum)
    if request.target == "safetensors":
        return verify_checkpoint(path, subject, progress)
    with TemporaryDirectory(dir=path.parent, prefix=".verify-") as place:
        base = Path(place) / "base.gguf"
        if request.target == "gguf":
            return verify_gguf(path, subject, progress, bare=lambda: _write_base(plan, base, request.quant, progress))
        _write_base(plan, base, "f32", progress)
        return verify_gguf(base, replace(subject, chat_template=plan.chat_template), progress, [path])


def _write_base(plan: MergePlan, path: Path, quant: str | None, progress: Progress) -> Path:
    """The base of `plan` alone, as GGUF."""
    alone = replace(plan.request, sources=(), target="gguf", output=path, quant=quant, verify=False)
    write_gguf(plan_merge(alone), path, progress)
    return path


def obstacle(base: Checkpoint, target: str) -> str | None:
    """Why an artifact of `base` cannot be verified on this machine, or None."""
    packages = ["torch", "transformers", "peft", *(["xllamacpp"] if target != "safetensors" else [])]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        return f"{missing[0]} is not installed"
    try:
        open_reference(base, ())
    except UnsupportedError as error:
        return f"transformers does not load it: {error.__cause__}"
    if target != "safetensors" and _changes_factors(base):
        return f"llama.cpp takes the factors of longrope for texts as long as its context, {CONTEXT} tokens at the least"
    needed, there = 4 * base.parameters, _memory()
    return f"it needs {needed >> 20:,} MiB of memory, and {there >> 20:,} are free" if there and needed > there else None


def _changes_factors(base: Checkpoint) -> bool:
    """Whether a Phi-3 was first trained on texts shorter than any context of llama.cpp's, and so has its long factors
    there where transformers still has the short ones."""
    return base.model_type == "phi3" and rope(base.config)["rope_type"] != "default" and original_context(base) < CONTEXT


def _memory() -> int | None:
    """Bytes of memory that could be had, where the system tells."""
    told = MEMORY.read_text() if MEMORY.is_file() else ""
    found = re.search(r"MemAvailable: *(\d+) kB", told)
    return int(found[1]) << 10 if found else None


def verify_gguf(
    path: Path,
    subject: Subject,
    progress: Progress = SILENT,
    adapters: Sequence[Path] = (),
    bare: Callable[[], Path] | None = None,
) -> Verification:
    """Compare the GGUF file at `path`, with GGUF `adapters` on it, with `subject`. `bare` gives the base in the file's type
    when it is needed.

    Needs the base in float32 in memory. Raises `MissingExtra`, `UnsupportedError` for a base that transformers does not
    load, and `VerificationFailed` when llama.cpp cannot load the file; everything else is in the answer.
    """
    need("llamacpp", "xllamacpp")
    reference = open_reference(subject.base, subject.sources)
    passages = reference.passages()
    with progress.task("verify", 4) as task:
        expected = _expected(reference, subject, passages)
        task.advance(1, "reference")
        with llamacpp(path, CONTEXT, adapters) as model:
            task.advance(1, "llama.cpp")
            texts = _compare_texts(model, reference, subject)
            task.advance(1, "tokens and chat template")
            found = likeliest(model, passages)
            task.advance(1, "log probabilities")
        agreement = compare(found, expected.adapted, expected.bare)
        if bare is not None and agreement.is_doubtful:
            with llamacpp(bare(), CONTEXT) as model:
                unadapted = compare(likeliest(model, passages), expected.adapted, expected.bare)
            agreement = replace(agreement, unadapted=unadapted)
    return judge(*type_and_limits(path, adapters), agreement, texts, expected.off)


def _compare_texts(model: LlamaCpp, reference: Reference, subject: Subject) -> Counts:
    template, lines = chosen_template(subject.base, subject.sources, subject.chat_template), tokenizer_lines(subject.base)
    prompts = list(_prompt_differences(model, reference, template))
    return Counts(len(lines), len(different_lines(model, reference, lines)), len(prompts), sum(prompts))


def verify_checkpoint(folder: Path, subject: Subject, progress: Progress = SILENT) -> Verification:
    """Compare the merged checkpoint in `folder` with `subject`, in transformers.

    Needs the base in float32 in memory. Raises `MissingExtra`, and `UnsupportedError` for what transformers
    does not load.
    """
    reference = open_reference(subject.base, subject.sources)
    passages = reference.passages()
    with progress.task("verify", 2) as task:
        expected = _expected(reference, subject, passages)
        task.advance(1, "reference")
        merged, _ = open_reference(open_checkpoint(folder), ()).log_probabilities(passages)
        task.advance(1, "merged weights")
    likely = [dict(zip(tokens, row[tokens], strict=True)) for row in merged for tokens in [row.argsort()[-TOP:].tolist()]]
    agreement = compare(likely, expected.adapted, expected.bare)
    kind = dominant_dtype(subject.base)
    return judge(kind, CHECKPOINT_LIMITS[kind], agreement, Counts(), expected.off)


@dataclass(frozen=True)
class _Expected:
    """At the compared positions: the adapters on the base, the bare base, and how far the merged weights are off."""

    adapted: Float32
    bare: Float32
    off: float | None


def _expected(reference: Reference, subject: Subject, passages: Sequence[Passage]) -> _Expected:
    alone = replace(reference, sources=()) if subject.combined else reference
    adapted, bare = alone.log_probabilities(passages)
    if subject.folds is None:
        return _Expected(adapted, bare, None)
    merged = reference.merged_log_probabilities(passages, subject.folds)
    return _Expected(merged, bare, None) if subject.combined else _Expected(adapted, bare, float(abs(merged - adapted).max()))


def likeliest(model: LlamaCpp, passages: Sequence[Passage]) -> list[dict[int, float]]:
    """The likeliest tokens at every compared position, and their log probabilities."""
    positions = ((passage.ids, length) for passage in passages for length in passage.lengths)
    return [model.next_tokens(ids[:length], TOP, ids[length]) for ids, length in positions]


def type_and_limits(path: Path, adapters: Sequence[Path] = ()) -> tuple[str, Limits]:
    """The type of the file at `path` and the limits it must keep: bf16's where its weights went through bf16. GGUF
    `adapters` on it have no type of their own, but their tensors' counts."""
    from gguf import LlamaFileType

    fields = read_gguf(path).fields
    within = {view.dtype for adapter in adapters for view in read_gguf(adapter).tensors.values()}
    rounded = next((f"MOSTLY_{dtype}" for dtype in ("BF16", "F16") if dtype in within), None)
    kind = rounded or str(LlamaFileType(fields["general.file_type"]).name)
    if kind not in LIMITS:
        raise VerificationFailed(f"{path} has the file type {kind}, for which adreg has no limits")
    through_bf16 = fields.get("adreg.merge.precision") == "compat" and kind in ("ALL_F32", "MOSTLY_F16")
    return kind, LIMITS["MOSTLY_BF16" if through_bf16 else kind]


def dominant_dtype(base: Checkpoint) -> str:
    """The type that most values of `base` have: F32, F16 or BF16."""
    counts = Counter[str]()
    for view in base.values():
        counts[view.dtype] += view.count
    return counts.most_common(1)[0][0]


def tokenizer_lines(base: Checkpoint) -> list[str]:
    """The corpus for the tokenizer of `base`. llama.cpp never normalises Unicode, so a tokenizer that does is only
    compared on text that is in its normal form already."""
    definition = base.tokenizer.definition or {}
    special = [token["content"] for token in definition.get("added_tokens") or [] if token["special"]]
    decomposed = definition.get("normalizer") is None or is_sentencepiece(base.tokenizer)
    return [line for line in corpus(special, decomposed) if is_comparable(base.tokenizer, line)]


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
