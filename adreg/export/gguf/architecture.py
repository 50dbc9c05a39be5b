"""What the writer must know of an architecture, and how that gives each tensor of a base its place in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.errors import FormatError, UnsupportedError
from adreg.export.changes.weights import is_tied
from adreg.export.fold.folded import Folded
from adreg.export.tensors import OutputTensor, Transform
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.canonical import OUTPUT_HEAD, canonical_name, is_buffer
from adreg.formats.gguf.names import NAMES

if TYPE_CHECKING:
    from gguf import GGUFWriter


def unchanged(_base: Checkpoint, _name: str) -> Transform | None:
    """Stored as the checkpoint stores it."""


def all_of_it(base: Checkpoint) -> Checkpoint:
    """The whole model is written."""
    return base


def nothing_more(_base: Checkpoint) -> Iterable[OutputTensor]:
    """No tensor but those of the checkpoint."""
    return ()


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp stores and runs a model; `name` is its name there, and in `NAMES`.

    `check` refuses what the format or llama.cpp cannot express. `describe` writes the hyperparameters, given the
    writer, the base, the number of the file type and the rows of the embedding table. `transform` says how the tensor
    of a GGUF name is stored there, `more` gives the tensors that come before the checkpoint's own. `biases` are the
    parts of a block that may have a bias, with `always_biased` must, as must the last norm. `ignored` begin the
    canonical names of tensors that belong to something else, such as a vision tower; `part` is what is left then.
    """

    name: str
    check: Callable[[Checkpoint], None]
    describe: Callable[[GGUFWriter, Checkpoint, int, int], None]
    transform: Callable[[Checkpoint, str], Transform | None] = unchanged
    more: Callable[[Checkpoint], Iterable[OutputTensor]] = nothing_more
    biases: tuple[str, ...] = ()
    always_biased: bool = False
    ignored: tuple[str, ...] = ()
    part: Callable[[Checkpoint], Checkpoint] = all_of_it

    def tensors(self, base: Checkpoint, folds: Mapping[str, Folded]) -> Iterator[OutputTensor]:
        """The tensors of a file of `folds`, in the order of llama.cpp's converter: by name within each shard.

        Raises `UnsupportedError` for a tensor or setting without a place in the format, `FormatError` for a missing one.
        """
        base = self.part(base)
        self.check(base)
        written = [fold for fold in _in_order(base, folds) if self._is_written(base, fold)]
        names = {fold.name: self.place(base, fold.name) for fold in written}
        self._check_complete(base, set(names.values()))
        yield from self.more(base)
        for fold in written:
            transform = self.transform(base, names[fold.name])
            shape = fold.shape[::-1] if transform and transform.transposes else fold.shape
            yield OutputTensor(names[fold.name], shape, fold, transform)

    def place(self, base: Checkpoint, name: str) -> str:
        """`model.layers.3.mlp.up_proj.weight` as `blk.3.ffn_up.weight`."""
        found = NAMES[self.name].in_gguf(name)
        stem, _, kind = (found or "").rpartition(".")
        part = stem.removeprefix("blk.").partition(".")[2] or stem
        biased = part in self.biases or (self.always_biased and part == "output_norm")
        if found is None or (kind == "bias" and not biased):
            raise UnsupportedError(f"tensor {name!r} in a GGUF of architecture {self.name}", "use --to safetensors")
        return found

    def _is_written(self, base: Checkpoint, fold: Folded) -> bool:
        plain = canonical_name(fold.name)
        if is_buffer(fold.name):
            return False
        if plain.startswith(self.ignored):
            if fold.adapted:
                raise UnsupportedError(
                    f"an adapter for {fold.name!r} in a GGUF of architecture {self.name}", "use --to safetensors"
                )
            return False
        return plain != OUTPUT_HEAD or fold.adapted or not is_tied(base)

    def _check_complete(self, base: Checkpoint, found: set[str]) -> None:
        names, kinds = NAMES[self.name], ("weight", "bias") if self.always_biased else ("weight",)
        blocks = [f"blk.{i}.{part}" for i in range(whole(base, *BLOCK_COUNT)) for part in names.block]
        outside = {f"{module}.weight" for module in names.outside if module != "output"}
        needed = {f"{module}.{kind}" for kind in kinds for module in (*blocks, "output_norm")} | outside
        missing = sorted(needed - found)
        if missing:
            why = f"lacks {len(missing)} tensors of a {base.architecture}, such as the one for {missing[0]}"
            raise FormatError(base.folder, why, "B-SHP-1")
        beyond = sorted(name for name in found - needed if name.startswith("blk.") and name.endswith(".weight"))
        if beyond:
            raise FormatError(base.folder, f"has more layers than config.json says, such as the one of {beyond[0]}", "B-SHP-1")


BLOCK_COUNT = ("num_hidden_layers", "n_layer")


def whole(base: Checkpoint, *keys: str) -> int:
    """The whole number that config.json gives under the first of `keys` that it has."""
    value = next((base.config[key] for key in keys if base.config.get(key) is not None), None)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise FormatError(base.folder / "config.json", f"{keys[0]} is {value!r}, not a whole number", "B-CFG-0")
    return value


def real(base: Checkpoint, key: str, default: float) -> float:
    """The positive number that config.json gives under `key`, or `default`, which transformers takes without one."""
    value = base.config.get(key, default)
    if not is_number(value):
        raise FormatError(base.folder / "config.json", f"{key} is {value!r}, not a number", "B-CFG-0")
    return float(value)


def is_number(value: object) -> bool:
    """Whether `value` is a positive number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _in_order(base: Checkpoint, folds: Mapping[str, Folded]) -> Iterator[Folded]:
    """Shard by shard and by name; what the base does not have goes with its first shard."""
    own = [name for name in folds if name not in base]
    for i, shard in enumerate(base.shards):
        for name in sorted([*shard, *own] if i == 0 else shard):
            if name in folds:
                yield folds[name]
