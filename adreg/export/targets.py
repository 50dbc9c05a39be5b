"""Which base tensor each adapter module folds into, or by name why it cannot. Knows names and shapes, no arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.export.fold.folded import Folded
from adreg.export.fold.lora import LoraUpdate
from adreg.formats.adapters.adapter import Adapter, LoraModule
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.fingerprint import EMBEDDINGS
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView

TABLES = (*EMBEDDINGS, "wpe.weight")
UNTIE = "train it on a base whose embeddings are not tied, or without embed_tokens and lm_head among its targets"


@dataclass(frozen=True)
class Source:
    """An adapter that takes part in a merge, how strongly, and what it is called in messages and records."""

    adapter: Adapter
    weight: float = 1.0
    label: str = "adapter"


def assign(base: Checkpoint, sources: Sequence[Source]) -> dict[str, Folded]:
    """What every tensor of the result is made of, by its raw name; every module of every source is in exactly one.

    Raises `UnsupportedError` or `FormatError` with the name of whatever could not be merged.
    """
    _check_base(base)
    names = {canonical_name(name): name for name in base} | {name: name for name in base}
    found: dict[str, list[LoraUpdate]] = defaultdict(list)
    for source in sources:
        _check_adapter(source)
        for module in source.adapter.modules:
            name = names.get(module.weight) or names.get(canonical_name(module.weight))
            _check_module(base, source, module, name)
            _add(found[str(name)], source, module, is_transposed(base, str(name)))
        for name, copy in source.adapter.base_copies.items():
            _check_copy(base, source, name, copy)
    return {name: Folded(name, view, view.dtype, tuple(found.get(name, ()))) for name, view in base.items()}


def _add(updates: list[LoraUpdate], source: Source, module: LoraModule, transposed: bool) -> None:
    """Append the module's update; two modules of one adapter on one tensor would count twice."""
    if any(update.module in source.adapter.modules for update in updates):
        raise FormatError(source.adapter.file.path, f"adapts {module.name!r} twice", "K-KEY-1")
    updates.append(LoraUpdate(module, source.weight * module.scaling, source.label, transposed))


def is_transposed(base: Checkpoint, name: str) -> bool:
    """Whether the base stores the weight `name` as (in, out): Conv1D and embedding tables."""
    return canonical_name(name) in TABLES or base.is_conv1d(name.removesuffix(".weight"))


def is_tied(base: Checkpoint) -> bool:
    """Whether the output head is the embedding table: so configured, or no head in the files."""
    return base.config.get("tie_word_embeddings") is True or OUTPUT_HEAD not in map(canonical_name, base)


def _check_base(base: Checkpoint) -> None:
    if base.config.get("quantization_config"):
        raise UnsupportedError("merging into a quantised base", "use the 16-bit checkpoint that it was made from")


def _check_adapter(source: Source) -> None:
    adapter, path = source.adapter, source.adapter.file.path
    if not -100 <= source.weight <= 100:
        raise UsageError(f"weight {source.weight} of {source.label} is out of range", "a weight lies between -100 and 100")
    if adapter.features:
        raise UnsupportedError(f"merging {source.label}, which uses {', '.join(adapter.features)},")
    if adapter.foreign:
        raise FormatError(path, f"tensor {adapter.foreign[0]!r} is no adapter parameter", "K-KEY-1")
    if adapter.unpaired:
        raise FormatError(path, f"lora_A and lora_B of {adapter.unpaired[0]!r} do not form a pair", "K-KEY-2")
    if not adapter.modules:
        raise FormatError(path, "holds no LoRA module", "F-EMP-1")


def _check_copy(base: Checkpoint, source: Source, name: str, copy: TensorView) -> None:
    """PEFT loads the copy over the base's tensor, so it must be the same."""
    own = base.get(name)
    if own is None or (own.dtype, own.shape, own.data) != (copy.dtype, copy.shape, copy.data):
        why = f"carries a copy of the base's {name!r} that is not this base's tensor"
        raise FormatError(source.adapter.file.path, why, "K-KEY-6")


def _check_module(base: Checkpoint, source: Source, module: LoraModule, name: str | None) -> None:
    path, plain = source.adapter.file.path, canonical_name(module.weight)
    if is_tied(base) and plain in (*EMBEDDINGS, OUTPUT_HEAD):
        raise UnsupportedError(f"merging a LoRA on {module.name!r}, which shares its weights with another module,", UNTIE)
    if name is None:
        raise FormatError(path, f"adapts {module.name!r}, which the base does not have", "B-SHP-1")
    if module.embedding != (plain in TABLES):
        raise FormatError(
            path, f"adapts {module.name!r} as if it were {'an' if module.embedding else 'no'} embedding", "B-SHP-2"
        )
    if module.rank != source.adapter.config.rank_of(module.name):
        raise FormatError(path, f"{module.name!r} has rank {module.rank}, which its configuration denies", "K-CFG-3")
    odd = {base[name].dtype, module.a.dtype, module.b.dtype} - set(FLOATS)
    if odd:
        raise UnsupportedError(f"merging {module.name!r} with tensors of type {', '.join(sorted(odd))}")
    update = (module.b.shape[0], module.a.shape[1])
    shape = update[::-1] if is_transposed(base, name) else update
    if shape != base[name].shape:
        raise FormatError(path, f"updates {module.name!r} with shape {shape}; the base has {base[name].shape}", "B-SHP-2")
