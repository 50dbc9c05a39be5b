"""K-KEY: tensor names, and what the configuration says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapters.family import Family, Parts
from adreg.formats.adapters.familykeys import Kind, Style, has_adapter_name
from adreg.formats.adapters.keys import PREFIX

SILENT_OVERWRITE = "loaders write such a tensor straight into the base, and every other adapter on it changes too"
SAVE_AGAIN = "save the adapter again"
LOW_RANK_PARTS = ("A", "B", "embedding_A", "embedding_B")
LAYER = re.compile(r"\.\d+\.")


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
        if not has_adapter_name(name):
            yield Seen(f"tensor {name!r} is no adapter parameter", name)


@rule(
    "K-KEY-2",
    "a module that lacks a part, or whose parts do not multiply",
    Severity.BLOCK,
    Cost.HEADER,
    why="half a low-rank pair has no product; peft fills the other half with zeros",
    fix=SAVE_AGAIN,
)
def unpaired_modules(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    for name in family.incomplete:
        if not any(is_shard(part, view.shape) for part, view in family.modules[name].items()):
            shapes = ", ".join(f"{part} {list(view.shape)}" for part, view in sorted(family.modules[name].items()))
            paired = family.kind is Kind.LORA
            message = "lora_A and lora_B do not form a pair" if paired else f"is no whole {family.kind} module"
            yield Seen(message, name, seen=shapes)


def is_shard(part: str, shape: tuple[int, ...]) -> bool:
    """Whether a part has a shape that only a shard of a distributed training has: empty, or a flattened matrix."""
    return 0 in shape or (part in LOW_RANK_PARTS and len(shape) < 2)


@rule(
    "K-KEY-3",
    "the adapter's own name inside tensor names",
    Severity.ERR,
    Cost.HEADER,
    why="PEFT puts the name in when it loads; where one is there already it finds no module and loads nothing, without a word",
    fix="save the adapter with `save_pretrained`, not with `torch.save` or `state_dict()`",
)
def adapter_name_in_keys(subject: Subject) -> Iterator[Seen]:
    named = [name for name in subject.family.foreign if has_adapter_name(name)]
    if named:
        expected = "…lora_A.weight"
        yield Seen(f"{len(named)} tensor names hold an adapter's name", named[0], seen=named[0], expected=expected)


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
    Severity.WARN,
    Cost.HEADER,
    why="PEFT loads it over the base, for every other adapter too; adreg takes it only where it is the base's own tensor",
    fix="save it again with save_embedding_layers=False",
)
def base_copies(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    for module in sorted({key.module for key in family.keys if key.part == "base_copy"}):
        yield Seen(f"carries a copy of the base's '{module}.weight'", f"{module}.weight")


@rule(
    "K-KEY-7",
    "two tensors for one part of a module",
    Severity.BLOCK,
    Cost.HEADER,
    why="readers disagree on which of the two counts",
    fix=SAVE_AGAIN,
)
def doubled_parts(subject: Subject) -> Iterator[Seen]:
    counted = Counter((key.module, key.part) for key in subject.family.keys)
    for (module, part), count in counted.items():
        if count > 1:
            yield Seen(f"{count} tensors are its part {part}", module, seen=count, expected=1)


@rule(
    "K-KEY-8",
    "modules_to_save that takes in whole layers",
    Severity.ERR,
    Cost.HEADER,
    why="the file then carries a second base, which no check of the adapter's own tensors sees",
    fix="name single modules, such as lm_head",
)
def wide_saved_modules(subject: Subject) -> Iterator[Seen]:
    wide = [name for name in subject.family.saved if _holds_layers(subject.family, name)]
    if wide:
        message = f"modules_to_save takes in {len(wide)} tensors of whole layers"
        yield Seen(message, wide[0], seen=subject.raw.get("modules_to_save"))


def _holds_layers(family: Family, raw: str) -> bool:
    """Whether the declared module that holds `raw` is one above the layers."""
    declared, path = family.config.get("modules_to_save"), f".{raw.removeprefix(PREFIX)}"
    names = [name for name in declared if isinstance(name, str) and name] if isinstance(declared, list) else []
    behind = [path.rpartition(f".{name}.")[2] for name in names if f".{name}." in path]
    return bool(behind) and all(LAYER.search(f".{rest}") for rest in behind)


def low_rank(parts: Parts) -> tuple[int, ...]:
    """The ranks that the parts of one module have, by the families' own layouts; empty where they name none."""
    axes = {"A": 0, "embedding_A": 0, "w1_b": 0, "w2_b": 0, "lambda_d": 0}
    return tuple(view.shape[axes[part]] for part, view in parts.items() if part in axes and view.shape)
