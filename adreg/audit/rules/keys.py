"""K: tensor names and adapter_config.json."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import UNTRUSTED, format_rule
from adreg.audit.subject import Subject
from adreg.formats.adapterconfig import MAX_RANK
from adreg.formats.familykeys import Kind, Style

SILENT_OVERWRITE = "loaders write such a tensor straight into the base, and every other adapter on it changes too"

k_cfg_1 = format_rule(
    "K-CFG-1",
    "an adapter_config.json that is not strict JSON, or holds a value of the wrong kind",
    fix="use the adapter_config.json that was saved with these tensors",
)
k_cfg_4 = format_rule(
    "K-CFG-4",
    "an alpha that is no finite number above 0",
    why="PEFT takes it without a word; NaN makes every answer NaN, a negative one turns the training round",
    fix="use the adapter_config.json that was saved with these tensors",
)
k_cfg_5 = format_rule(
    "K-CFG-5",
    "an expression that could run for ever",
    why="loaders match it against every module's name, and never come back",
    fix="write plain module names",
)


@rule(
    "K-KEY-1",
    "a tensor that is no adapter parameter",
    Severity.BLOCK,
    Cost.HEADER,
    why=SILENT_OVERWRITE,
    fix="remove the tensor, or save the adapter again with peft",
)
def foreign_tensors(subject: Subject) -> Iterator[Seen]:
    for name in subject.family.foreign:
        yield Seen(f"tensor {name!r} is no adapter parameter", name)


@rule(
    "K-KEY-2",
    "a module that lacks a part, or whose parts do not multiply",
    Severity.BLOCK,
    Cost.HEADER,
    why="half a low-rank pair has no product; peft fills the other half with zeros",
    fix="save the adapter again",
)
def unpaired_modules(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    for name in family.incomplete:
        shapes = ", ".join(f"{part} {list(view.shape)}" for part, view in sorted(family.modules[name].items()))
        message = "lora_A and lora_B do not form a pair" if family.kind is Kind.LORA else f"is no whole {family.kind} module"
        yield Seen(message, name, seen=shapes)


@rule(
    "K-KEY-4",
    "a target in the configuration that no tensor belongs to",
    Severity.ERR,
    Cost.HEADER,
    why="those modules start untrained, without a word",
    fix="take the target out of adapter_config.json, or save the adapter again",
)
def unused_targets(subject: Subject) -> Iterator[Seen]:
    targets = subject.raw.get("target_modules")
    names = [*subject.family.modules, *subject.family.sides]
    if not names or not isinstance(targets, list):
        return
    ends = [f".{name}" for name in names]
    for target in map(str, targets):
        if target != "all-linear" and not any(end.endswith(f".{target}") for end in ends):
            yield Seen(f"target_modules names {target!r}, and no tensor belongs to it", target)


@rule(
    "K-KEY-5",
    "tensor names in another tool's spelling",
    Severity.ERR,
    Cost.HEADER,
    why="PEFT finds no module under such a name and loads nothing, without a word",
    fix="convert it to a PEFT adapter folder",
)
def other_spellings(subject: Subject) -> Iterator[Seen]:
    styles = subject.family.styles
    if any(style is not Style.PEFT for style in styles):
        seen = ", ".join(styles)
        yield Seen(f"its tensor names are {' and '.join(styles)} ones", seen=seen, expected=Style.PEFT)


@rule(
    "K-KEY-6",
    "a copy of a base tensor, which PEFT saves beside an adapted embedding and loads over the base",
    Severity.ERR,
    Cost.HEADER,
    why=SILENT_OVERWRITE,
    fix="save it again with save_embedding_layers=False",
)
def base_copies(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    for module in sorted({key.module for key in family.keys if key.part == "base_copy"}):
        yield Seen(f"carries a copy of the base's '{module}.weight'", f"{module}.weight")


@rule(
    "K-CFG-2",
    "an adapter type that adreg does not know, or does not apply",
    Severity.ERR,
    Cost.HEADER,
    why="what is not understood cannot be applied",
    fix="serve it with PEFT, or train LoRA",
)
def other_types(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    if not subject.raw or family.kind is Kind.LORA:
        return
    if family.kind is Kind.UNKNOWN:
        yield Seen(f"its type {subject.raw.get('peft_type')!r} is unknown", "peft_type", seen=subject.raw.get("peft_type"))
    elif subject.target == "adreg":
        kept = "it is not mergeable; PEFT serves it" if family.kind.is_prompt else "serve it with PEFT, or train LoRA"
        yield Seen(
            f"is {family.kind}, which adreg does not apply", "peft_type", seen=family.declared, expected="LORA", fix=kept
        )


@rule(
    "K-CFG-3",
    "a rank that is no rank, or not the tensors'",
    Severity.BLOCK,
    Cost.HEADER,
    why="alpha/rank would scale it wrongly",
    fix="use the adapter_config.json that was saved with these tensors",
)
def rank_mismatch(subject: Subject) -> Iterator[Seen]:
    for problem in subject.problems("K-CFG-3"):
        yield Seen(problem.why, subject.name_of(problem.path), expected=f"1 to {MAX_RANK}", why=UNTRUSTED)
    if subject.adapter is None:
        return
    config = subject.adapter.config
    for module in subject.lora:
        expected = config.rank_of(module.name)
        if module.rank != expected:
            message = f"rank {module.rank} in the file, {expected} in adapter_config.json"
            yield Seen(message, module.name, seen=module.rank, expected=expected)


@rule(
    "K-CFG-8",
    "more than plain LoRA, for adreg's own merge and serve",
    Severity.ERR,
    Cost.HEADER,
    why="ignoring it would give other answers than the training did",
    fix="train plain LoRA, or merge it with PEFT",
)
def extra_features(subject: Subject) -> Iterator[Seen]:
    if subject.target != "adreg" or subject.adapter is None:
        return
    for feature in subject.adapter.features:
        yield Seen(f"uses {feature}, which adreg does not apply yet", feature, seen=feature)
