"""A Hugging Face checkpoint folder: config.json, safetensors in one file or in indexed shards, tokenizer files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adreg.errors import FormatError, NotFoundError, PickleRefused
from adreg.formats.quantised.packed import PackedTensor, Quantisation, main_quantisation, read_packed
from adreg.formats.safetensors import SafetensorsFile, TensorView, open_safetensors
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.text.frontmatter import CARD, read_front_matter
from adreg.formats.text.tokenizer import TokenizerFiles

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin")
CONV1D = {"gpt2": ("c_attn", "c_proj", "c_fc", "q_attn")}


@dataclass(frozen=True)
class Checkpoint(Mapping[str, TensorView]):
    """The tensors of a checkpoint by name, whatever their shards. Open one with `open_checkpoint`."""

    folder: Path
    config: JsonObject
    shards: tuple[SafetensorsFile, ...]

    @cached_property
    def tensors(self) -> dict[str, TensorView]:
        return {name: view for shard in self.shards for name, view in shard.items()}

    def __getitem__(self, name: str) -> TensorView:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def architecture(self) -> str:
        """The class that config.json names, such as `LlamaForCausalLM`."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else "unknown"

    @property
    def container(self) -> str:
        """The kind of file that the weights are in: `safetensors` or `gguf`."""
        return "safetensors"

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    @cached_property
    def packed(self) -> dict[str, PackedTensor]:
        """The quantised weights by logical name; empty for an ordinary checkpoint."""
        return read_packed(self.config, self.tensors)

    @property
    def quantisation(self) -> Quantisation | None:
        """How most of its values are quantised, or None."""
        return main_quantisation(self.packed.values())

    @cached_property
    def tokenizer(self) -> TokenizerFiles:
        return TokenizerFiles(self.folder)

    @cached_property
    def front_matter(self) -> JsonObject:
        """What its README.md says of it to hubs, its licence among it; empty without one."""
        return read_front_matter(self.folder / CARD)

    @cached_property
    def logical(self) -> dict[str, TensorView | PackedTensor]:
        """The tensors of the model by logical name: a quantised weight in place of the parts that it is stored in."""
        parts = {part for packed in self.packed.values() for part in packed.parts}
        return {name: view for name, view in self.items() if name not in parts} | self.packed

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the model by logical name."""
        return {name: tensor.shape for name, tensor in self.logical.items()}

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    def is_conv1d(self, module: str) -> bool:
        """Whether `module` stores its weight as (in, out), as GPT-2's Conv1D does."""
        return module.rpartition(".")[2] in CONV1D.get(self.model_type, ())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in `folder`. Raises `NotFoundError` or `FormatError`; reads headers only."""
    if not folder.is_dir():
        raise NotFoundError("base folder", str(folder))
    if not (folder / "config.json").is_file():
        raise FormatError(folder, "has no config.json: not a checkpoint folder", "B-DIR-1")
    config = read_object(folder / "config.json", "B-CFG-0")
    return Checkpoint(folder, config, tuple(_shards(folder)))


def _shards(folder: Path) -> list[SafetensorsFile]:
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / SINGLE).is_file():
        return [open_safetensors(folder / SINGLE)]
    for name in PICKLES:
        if (folder / name).exists():
            raise PickleRefused(folder / name)
    raise FormatError(folder, f"has neither {SINGLE} nor {INDEX}", "B-DIR-2")


def _indexed(folder: Path) -> list[SafetensorsFile]:
    index = folder / INDEX
    weight_map = read_object(index, "B-IDX-1", limit=50_000_000).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(index, "has no weight_map", "B-IDX-1")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise FormatError(index, f"names {name!r}, which is no safetensors file of this folder", "B-IDX-2")
    for name in names:
        if not (folder / name).is_file():
            raise FormatError(folder, f"shard {name} is missing ({_held(weight_map, name)} tensors are in it)", "B-IDX-3")
    shards = [open_safetensors(folder / name) for name in names]
    for shard in shards:
        _check_shard(index, weight_map, shard)
    return shards


def _held(weight_map: JsonObject, shard: str) -> int:
    return sum(value == shard for value in weight_map.values())


def _check_shard(index: Path, weight_map: JsonObject, shard: SafetensorsFile) -> None:
    promised = {name for name, where in weight_map.items() if where == shard.path.name}
    if promised != set(shard):
        odd = sorted(promised ^ set(shard))[0]
        raise FormatError(index, f"and {shard.path.name} disagree about tensor {odd!r}", "B-IDX-4")
