"""The rules: pure functions that look at an adapter, the ids it was trained on, and a base card.

Rule ids are stable. F file, K keys and configuration, B base, T tokenizer and template, Q quality. The container
rules (F-HDR, F-OFF, F-NAM, K-CFG) live where files are read, in `formats/`, and reach a report through
`finding_of_error`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import Finding, Severity, Verdict
from adreg.errors import FormatError
from adreg.formats.adapter import Adapter, LoraModule
from adreg.formats.dtypes import FLOATS, all_finite, any_nonzero
from adreg.formats.fingerprint import BaseIds

SILENT_OVERWRITE = "loaders write such a tensor straight into the base, and every other adapter on it changes too"
SILENT_LOAD = "PEFT loads it without a word and the answers are wrong"


@dataclass(frozen=True)
class Subject:
    """What is audited: the adapter, the ids of the base it was trained on (None where nobody recorded them),
    and the card of the base at hand (None where none was given)."""

    adapter: Adapter
    trained_on: BaseIds | None
    base: BaseCard | None


def finding_of_error(error: FormatError) -> Finding:
    """A file that cannot even be read is one blocking finding."""
    fix = "convert it to safetensors where it came from" if error.rule == "S-PKL-1" else "fetch or save the file again"
    return Finding(error.rule, Severity.BLOCK, error.why, "what breaks its own format cannot be trusted", fix, error.path.name)


def foreign_tensors(subject: Subject) -> Iterator[Finding]:
    """K-KEY-1: a tensor that is no adapter parameter."""
    for name in subject.adapter.foreign:
        fix = "remove the tensor, or save the adapter again with peft"
        yield Finding("K-KEY-1", Severity.BLOCK, f"tensor {name!r} is no adapter parameter", SILENT_OVERWRITE, fix, name)


def unpaired_modules(subject: Subject) -> Iterator[Finding]:
    """K-KEY-2: A without B, B without A, or two that do not multiply."""
    why = "half a low-rank pair has no product; peft fills the other half with zeros"
    for name in subject.adapter.unpaired:
        yield Finding("K-KEY-2", Severity.BLOCK, "lora_A and lora_B do not form a pair", why, "save the adapter again", name)


def no_modules(subject: Subject) -> Iterator[Finding]:
    """F-EMP-1: nothing that could adapt anything."""
    if not subject.adapter.modules:
        why = "an adapter without modules is the base under another name"
        yield Finding("F-EMP-1", Severity.BLOCK, "no LoRA module in the file", why, "save the adapter again")


def unused_targets(subject: Subject) -> Iterator[Finding]:
    """K-KEY-4: a target in the configuration that no tensor belongs to."""
    ends = [f".{module.name}" for module in subject.adapter.modules]
    for target in subject.adapter.config.target_modules:
        if target != "all-linear" and not any(end.endswith(f".{target}") for end in ends):
            message = f"target_modules names {target!r}, and no tensor belongs to it"
            fix = "take the target out of adapter_config.json, or save the adapter again"
            yield Finding("K-KEY-4", Severity.ERR, message, "those modules start untrained, without a word", fix, target)


def extra_features(subject: Subject) -> Iterator[Finding]:
    """K-CFG-8: more than plain LoRA."""
    for feature in subject.adapter.features:
        why = "ignoring it would give other answers than the training did"
        fix = "train plain LoRA, or merge it with PEFT"
        yield Finding("K-CFG-8", Severity.ERR, f"uses {feature}, which adreg does not apply yet", why, fix, feature)


def rank_mismatch(subject: Subject) -> Iterator[Finding]:
    """K-CFG-3: the configured rank is not the tensors' rank, so the scaling is not what it says."""
    config = subject.adapter.config
    for module in subject.adapter.modules:
        if module.rank != config.rank_of(module.name):
            message = f"rank {module.rank} in the file, {config.rank_of(module.name)} in adapter_config.json"
            fix = "use the adapter_config.json that was saved with these tensors"
            yield Finding("K-CFG-3", Severity.BLOCK, message, "alpha/rank would scale it wrongly", fix, module.name)


def odd_types(subject: Subject) -> Iterator[Finding]:
    """F-DTY-1: element types that are no adapter's."""
    for module in subject.adapter.modules:
        odd = {module.a.dtype, module.b.dtype} - set(FLOATS)
        if odd:
            message = f"stored as {', '.join(sorted(odd))}"
            yield Finding(
                "F-DTY-1", Severity.BLOCK, message, "adapters are F32, F16 or BF16", "save it as float32", module.name
            )


def missing_modules(subject: Subject) -> Iterator[Finding]:
    """B-SHP-1: the base has no such module."""
    if subject.base is None:
        return
    for module in subject.adapter.modules:
        if module.weight not in subject.base.shapes:
            message = f"{subject.base.name} has no module {module.name!r}"
            yield Finding("B-SHP-1", Severity.BLOCK, message, SILENT_LOAD, "use the base it was trained on", module.name)


def wrong_shapes(subject: Subject) -> Iterator[Finding]:
    """B-SHP-2: A and B do not fit the base's weight."""
    if subject.base is None:
        return
    for module in subject.adapter.modules:
        shape = subject.base.shapes.get(module.weight)
        if shape is not None and delta_shape(module, subject.base) != shape:
            message = f"its update has shape {delta_shape(module, subject.base)}, the base's weight {shape}"
            why = "it was trained on a model of another size"
            yield Finding("B-SHP-2", Severity.BLOCK, message, why, "use the base it was trained on", module.name)


def delta_shape(module: LoraModule, base: BaseCard) -> tuple[int, int]:
    """Shape of the update in the layout that the base stores the weight in."""
    out, inner = module.b.shape[0], module.a.shape[1]
    return (inner, out) if module.embedding or module.name in base.conv1d else (out, inner)


def uncovered_layers(subject: Subject) -> Iterator[Finding]:
    """B-SHP-4: the base has modules of an adapted kind that the adapter does not touch."""
    if subject.base is None or subject.adapter.config.raw.get("layers_to_transform") is not None:
        return
    adapted = {module.name for module in subject.adapter.modules}
    kinds = {name.rpartition(".")[2] for name in adapted}
    modules = {name.removesuffix(".weight") for name in subject.base.shapes if name.endswith(".weight")}
    missed = sorted(name for name in modules - adapted if name.rpartition(".")[2] in kinds)
    if missed:
        message = f"{len(missed)} modules of the adapted kinds are untouched, such as {missed[0]}"
        fix = "check that the base is the one it was trained on"
        yield Finding("B-SHP-4", Severity.WARN, message, "the base may have more layers than the training's", fix, missed[0])


def base_identity(subject: Subject) -> Iterator[Finding]:
    """B-ID-1: the verdict, as a finding."""
    if subject.base is None:
        return
    found, name = verdict(subject), subject.base.name
    fix = "give the base it was trained on, or train it again on this one"
    if found is Verdict.SAME_VALUES:
        message = f"{name} holds the same values in other files or types"
        yield Finding("B-ID-1", Severity.INFO, message, "it behaves the same up to rounding", "nothing to do", name)
    elif found is Verdict.QUANT_OF:
        yield _quantised_copy(subject.base, subject.trained_on)
    elif found is Verdict.SAME_ARCH:
        same_weights = subject.trained_on is not None and subject.base.ids.weights_id == subject.trained_on.weights_id
        differs = "another configuration (config.json)" if same_weights else "other weights"
        message = f"{name} has the shape of its base, but {differs}"
        yield Finding("B-ID-1", Severity.ERR, message, SILENT_LOAD, fix, name)
    elif found is Verdict.DIFFERENT:
        message = f"{name} is another architecture than its base"
        yield Finding("B-ID-1", Severity.BLOCK, message, "its updates belong to other weights", fix, name)
    elif found is Verdict.UNKNOWN:
        message = "nobody recorded which base it was trained on"
        yield Finding(
            "B-ID-1", Severity.WARN, message, "a wrong base of the same shape loads silently", "push it with --base", name
        )


def _quantised_copy(base: BaseCard, trained_on: BaseIds | None) -> Finding:
    """B-QNT-1: the base of the training in other, rounded numbers, or the original of those."""
    relative = base.relative(trained_on.weights_id) if trained_on else None
    role = "a quantised or re-typed copy" if relative and relative.original else "the original"
    score = f" (score {relative.score:.2f}, by {relative.evidence})" if relative else ""
    message = f"{base.name} is {role} of the base that it was trained on{score}"
    why, fix = "its answers differ a little from those of the training", "compare them, or use the base of the training"
    return Finding("B-QNT-1", Severity.WARN, message, why, fix, base.name)


def tokenizer_changed(subject: Subject) -> Iterator[Finding]:
    """T-TOK-1 and T-TPL-1: the tokenizer or chat template is not the one of the training."""
    if subject.base is None or subject.trained_on is None:
        return
    now, then, name = subject.base.ids, subject.trained_on, subject.base.name
    # a GGUF file has the tokens, but not the whole tokenizer
    told_by_tokens = subject.base.container == "gguf" and then.vocab_id is not None and now.vocab_id == then.vocab_id
    if then.tok_id and now.tok_id != then.tok_id and not told_by_tokens:
        message, why = f"{name} has another tokenizer than at training", "the same text becomes other tokens"
        yield Finding("T-TOK-1", Severity.ERR, message, why, "use the tokenizer files of the training", name)
    if then.tpl_id and now.tpl_id != then.tpl_id:
        message, why = f"{name} has another chat template than at training", "the adapter sees prompts it never learned"
        yield Finding("T-TPL-1", Severity.WARN, message, why, "use the chat template of the training", name)


def not_finite(subject: Subject) -> Iterator[Finding]:
    """Q-NAN-1: NaN or infinity. Reads every tensor."""
    for module in subject.adapter.modules:
        for view in (module.a, module.b):
            if view.dtype in FLOATS and not all_finite(view.data, view.dtype):
                why = "with SDPA attention the model may still answer, and a merge writes the NaNs"
                fix = "take an earlier checkpoint of the training"
                yield Finding("Q-NAN-1", Severity.BLOCK, "holds NaN or infinity", why, fix, view.name)


def no_effect(subject: Subject) -> Iterator[Finding]:
    """Q-ZERO-1 and Q-ZERO-2: every B, or some, are zero. Reads every B."""
    modules = [module for module in subject.adapter.modules if module.b.dtype in FLOATS]
    dead = [module.name for module in modules if not any_nonzero(module.b.data, module.b.dtype)]
    if modules and len(dead) == len(modules):
        why = "the adapter is the base under another name"
        yield Finding("Q-ZERO-1", Severity.ERR, "every lora_B is zero: it does nothing", why, "check that the training ran")
    elif len(dead) * 20 >= len(modules) and dead:
        message = f"{len(dead)} of {len(modules)} modules do nothing (lora_B is zero)"
        yield Finding("Q-ZERO-2", Severity.WARN, message, "part of it was never trained", "check the targets", dead[0])


def base_copies(subject: Subject) -> Iterator[Finding]:
    """K-KEY-6: a copy of a base tensor, which PEFT saves beside an adapted embedding and loads over the base."""
    for name in subject.adapter.base_copies:
        fix = "save it again with save_embedding_layers=False"
        yield Finding("K-KEY-6", Severity.ERR, f"carries a copy of the base's {name!r}", SILENT_OVERWRITE, fix, name)


def verdict(subject: Subject) -> Verdict:
    """Compare the base at hand with the ids recorded at training, by content."""
    if subject.base is None or subject.trained_on is None:
        return Verdict.UNKNOWN
    now, then = subject.base.ids, subject.trained_on
    if now.weights_id == then.weights_id and now.cfg_id == then.cfg_id:
        return Verdict.EXACT
    if now.cfg_id == then.cfg_id and (now.content_id == then.content_id or now.values_id == then.values_id):
        return Verdict.SAME_VALUES
    if subject.base.relative(then.weights_id):
        return Verdict.QUANT_OF
    return Verdict.SAME_ARCH if now.arch_id == then.arch_id else Verdict.DIFFERENT


HEADER_RULES = (
    foreign_tensors,
    unpaired_modules,
    no_modules,
    unused_targets,
    extra_features,
    base_copies,
    rank_mismatch,
    odd_types,
    missing_modules,
    wrong_shapes,
    uncovered_layers,
    base_identity,
    tokenizer_changed,
)
TENSOR_RULES = (not_finite, no_effect)
