"""The `general.*` and `adreg.*` keys of a GGUF file, and its name. The same input gives the same keys: no dates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adreg.export.tensors import PlannedTensor
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import read_object

if TYPE_CHECKING:
    from gguf import GGUFWriter

SAMPLING = {"top_k": "sampling_top_k", "top_p": "sampling_top_p", "min_p": "sampling_min_p", "temperature": "sampling_temp"}
LICENSE = ("license", "license_name", "license_link")


def size_label(tensors: Sequence[PlannedTensor]) -> str:
    """The number of parameters as names show it, such as `135M`."""
    import gguf

    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return str(gguf.size_label(parameters, parameters, 0, 0))


def file_name(name: str, tensors: Sequence[PlannedTensor], quant: str, is_adapter: bool = False) -> str:
    """The file's name by the GGUF naming convention: `<name>-<size>-<encoding>.gguf`."""
    import gguf

    kind = "LoRA" if is_adapter else None
    return f"{gguf.naming_convention(name, None, None, None, size_label(tensors), quant, kind)}.gguf"


def write_general(
    writer: GGUFWriter, base: Checkpoint, base_name: str, name: str, tensors: Sequence[PlannedTensor], is_adapter: bool
) -> None:
    """What the model is called, where it comes from, its license and the sampling settings its authors advise."""
    from gguf import GGUFType, Metadata

    card = Metadata.load_model_card(base.folder)
    writer.add_type(GGUFType.ADAPTER if is_adapter else GGUFType.MODEL)
    Metadata(
        name=name,
        size_label=size_label(tensors),
        base_models=[{"name": base_name}],
        **{key: str(card[key]) for key in LICENSE if card.get(key)},
        **_sampling(base),
    ).set_gguf_meta_model(writer)


def write_provenance(writer: GGUFWriter, record: Mapping[str, str]) -> None:
    """`record` as keys that begin with `adreg.`."""
    for key, value in record.items():
        writer.add_string(f"adreg.{key}", value)


def _sampling(base: Checkpoint) -> dict[str, Any]:
    path = base.folder / "generation_config.json"
    config = read_object(path, "B-CFG-0") if path.is_file() else {}
    return {ours: config[theirs] for theirs, ours in SAMPLING.items() if config.get(theirs) is not None}
