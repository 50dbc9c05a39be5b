"""All changes of an adapter: every tensor of it is in exactly one of them, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.fields import check_fields
from adreg.export.changes.lora import lora_changes
from adreg.export.changes.lycoris import loha_changes, lokr_changes
from adreg.export.changes.multiplied import ia3_changes, oft_changes
from adreg.export.changes.products import adalora_changes, vera_changes
from adreg.export.changes.source import AdaptedModule, Source
from adreg.export.changes.tables import check_copy, is_table, layernorm_changes, saved_changes, token_changes
from adreg.export.changes.weights import Weights
from adreg.formats.adapters.family import Family
from adreg.formats.adapters.familykeys import SIDE_PARTS, Kind, Style

Maker = Callable[[AdaptedModule], Iterator[Change]]
FAMILIES: dict[Kind, tuple[Maker | None, frozenset[str]]] = {
    Kind.LORA: (lora_changes, frozenset({"A", "B", "embedding_A", "embedding_B", "magnitude", "lora_bias"})),
    Kind.ADALORA: (adalora_changes, frozenset({"A", "B", "E"})),
    Kind.VERA: (vera_changes, frozenset({"lambda_b", "lambda_d"})),
    Kind.LOHA: (loha_changes, frozenset({"w1_a", "w1_b", "w2_a", "w2_b"})),
    Kind.LOKR: (lokr_changes, frozenset({"w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"})),
    Kind.IA3: (ia3_changes, frozenset({"l"})),
    Kind.OFT: (oft_changes, frozenset({"R"})),
    Kind.LN_TUNING: (layernorm_changes, frozenset({"weight", "bias"})),
    Kind.TRAINABLE_TOKENS: (None, frozenset()),
}
SHARED = {Kind.VERA: ("vera_A", "vera_B")}
EITHER = (("A", "embedding_A"), ("w1", "w1_a"), ("w2", "w2_a"))


def changes_of(source: Source, weights: Weights) -> Iterator[Change]:
    """What `source` does to the base. Raises `UnsupportedError` or `FormatError` with the name of what is refused."""
    family = source.family
    if family.kind not in FAMILIES:
        raise UnsupportedError(f"merging {source.label}: a {family.kind} adapter", "serve it with PEFT, beside the base")
    check_fields(source)
    tables = {raw: source.adapter.file[raw] for raw in family.foreign if is_table(raw)}
    _check_tensors(source, set(tables))
    maker, _ = FAMILIES[family.kind]
    for name, parts in {**family.modules, **family.sides}.items():
        module = AdaptedModule(source, name, parts, weights)
        own = {part: view for part, view in parts.items() if part not in SIDE_PARTS}
        if maker and own:
            yield from maker(replace(module, parts=own))
        if "token_delta" in parts:
            yield from token_changes(module)
        if "base_copy" in parts:
            check_copy(module)
    yield from saved_changes(source, family.saved, weights)
    yield from saved_changes(source, tables, weights, both=len(tables) == 1)


def _check_tensors(source: Source, tables: set[str]) -> None:
    """Refuse what is no tensor of the family, or not in PEFT's spelling, and modules that are not whole."""
    family = source.family
    _, known = FAMILIES[family.kind]
    odd = [raw for raw in family.foreign if raw not in tables]
    odd += [key.raw for key in family.keys if key.style is not Style.PEFT]
    odd += [key.raw for key in family.keys if key.module and key.part not in known | set(SIDE_PARTS)]
    odd += [view.name for part, view in family.shared.items() if part not in SHARED.get(family.kind, ())]
    odd += _repeated(family)
    if odd:
        raise source.refusal(f"tensor {odd[0]!r} is no adapter parameter that adreg knows how to merge", "K-KEY-1")
    if family.incomplete:
        what = "lora_A and lora_B of" if family.kind is Kind.LORA else "the tensors of"
        raise source.refusal(f"{what} {family.incomplete[0]!r} do not form a pair or a whole", "K-KEY-2")
    if not family.modules and not family.sides and not family.saved and not tables:
        raise source.refusal("holds nothing that could be merged", "F-EMP-1")


def _repeated(family: Family) -> list[str]:
    """Tensors that say again what others of their module say: in another spelling, or in another form."""
    seen = {(key.module, key.part): key.raw for key in family.keys}
    again = [key.raw for key in family.keys if seen[key.module, key.part] != key.raw]
    return again + [parts[one].name for parts in family.modules.values() for one, other in EITHER if {one, other} <= set(parts)]
