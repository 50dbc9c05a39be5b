"""Tensors in the place of the base's own: trained tokens, saved modules, trained biases and norms; and copies of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adreg.export.changes.change import Change
from adreg.export.changes.source import AdaptedModule, Source
from adreg.export.changes.weights import Weights
from adreg.export.fold.rows import RowsUpdate
from adreg.formats.adapters.keys import PREFIX
from adreg.formats.bases.fingerprint import EMBEDDINGS
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView


def token_changes(module: AdaptedModule) -> Iterator[Change]:
    """Rows of a table that were trained. Those of a tied table count for the output head too, unless it has its own."""
    source, name, rows = module.source, module.checked(module.tensor()), module.parts["token_delta"]
    ids, shape = _ids(module), module.weights.view(name).shape
    if len(set(ids)) != len(ids) or any(type(one) is not int or not 0 <= one < shape[0] for one in ids):
        raise source.refusal(f"trains tokens of {module.name!r} twice, or that the base does not have", "B-SHP-2")
    module.shaped("token_delta", len(ids), *shape[1:])
    trained = {canonical_name(f"{key.module}.weight") for key in source.family.keys if key.part == "token_delta"}
    both = module.weights.tied and name == module.weights.table and OUTPUT_HEAD not in trained
    yield Change(name, source, RowsUpdate(ids, rows, source.label), both=both)


def saved_changes(source: Source, saved: Mapping[str, TensorView], weights: Weights, both: bool = False) -> Iterator[Change]:
    """Whole tensors in the place of the base's; tables may have grown."""
    for raw, view in saved.items():
        parameter = raw.removeprefix(PREFIX).replace(".base_layer.", ".")
        name = weights.find(parameter)
        if name is None:
            raise source.refusal(f"saves {parameter!r}, which the base does not have", "B-SHP-1")
        shape = weights.view(name).shape
        own = shape[1:] if name in (weights.table, weights.head) else shape
        if view.shape[len(view.shape) - len(own) :] != own or len(view.shape) != len(shape) or view.dtype not in FLOATS:
            raise source.refusal(f"saves {parameter!r} as {view.dtype} {view.shape}; the base has {shape}", "B-SHP-2")
        yield Change(name, source, view=view, both=both)


def layernorm_changes(module: AdaptedModule) -> Iterator[Change]:
    """The norm's own parameters, trained: they take the place of the base's."""
    for part in module.parts:
        name = module.tensor(part)
        yield Change(name, module.source, view=module.shaped(part, *module.weights.view(name).shape))


def is_table(raw: str) -> bool:
    """Whether `raw` is an embedding table or output head, which PEFT saves unasked when the vocabulary has grown."""
    return raw.startswith(PREFIX) and canonical_name(raw) in (*EMBEDDINGS, OUTPUT_HEAD)


def check_copy(module: AdaptedModule) -> None:
    """PEFT loads the copy over the base's tensor, so it must be the same."""
    copy, name = module.parts["base_copy"], module.weights.find(f"{module.name}.weight")
    own = module.weights.view(name) if name else None
    if own is None or (own.dtype, own.shape, own.data) != (copy.dtype, copy.shape, copy.data):
        why = f"carries a copy of the base's '{module.name}.weight' that is not this base's tensor"
        raise module.source.refusal(why, "K-KEY-6")


def _ids(module: AdaptedModule) -> tuple[int, ...]:
    """The tokens that the configuration names for the module."""
    raw = module.source.adapter.config.raw
    named = raw.get("trainable_token_indices") or raw.get("token_indices")
    if isinstance(named, dict):
        fitting = [ids for key, ids in named.items() if f".{module.name}".endswith(f".{key}")]
        named = fitting[0] if len(fitting) == 1 else None
    if not isinstance(named, list):
        raise module.source.refusal(f"has trained tokens of {module.name!r}, but does not name them", "K-CFG-8")
    return tuple(named)
