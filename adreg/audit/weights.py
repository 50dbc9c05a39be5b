"""Where an adapter's module lies in a base: its weight, tied, per expert, fused, or nowhere. Knows names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from adreg.audit.basecard import BaseCard
from adreg.formats.adapters.family import EMBEDDINGS, OUTPUT_HEADS
from adreg.formats.adapters.updates import Fit
from adreg.formats.canonical import canonical_name

Shape = tuple[int, ...]
WRAPPED = ".base_layer"
ATTENTION = ("qkv_proj", "c_attn", "query_key_value", "W_pack")
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), ATTENTION),
    **dict.fromkeys(("gate_proj", "up_proj"), ("gate_up_proj",)),
    "qkv_proj": ("q_proj",),
    "gate_up_proj": ("gate_proj",),
}


def ending(module: str) -> str:
    """The last part of a module's name, such as `q_proj`."""
    return module.removesuffix(WRAPPED).rpartition(".")[2]


def is_table(module: str) -> bool:
    """Whether it is an embedding or an output head: a table with a row for every token."""
    return ending(module) in (*EMBEDDINGS, *OUTPUT_HEADS)


@dataclass(frozen=True)
class BaseWeights:
    """The weights of a base, found by the names that an adapter's modules have."""

    card: BaseCard

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shapes by canonical name, without the prefixes that wrappers add."""
        return {canonical_name(name): shape for name, shape in self.card.shapes.items()}

    @cached_property
    def modules(self) -> dict[str, str]:
        """The base's own name of every module with a weight, by canonical name."""
        weights = (name.removesuffix(".weight") for name in self.card.shapes if name.endswith(".weight"))
        return {canonical_name(module): module for module in weights}

    @cached_property
    def embedding(self) -> Shape | None:
        """Tokens and width of the input embedding."""
        tables = (self.shapes[f"{name}.weight"] for name in self.modules if ending(name) in EMBEDDINGS)
        return next((shape for shape in tables if len(shape) == 2), None)

    def weight(self, module: str) -> Shape | None:
        """The shape of the module's weight as (output, input) features; a tied output head's is the embedding's."""
        name = canonical_name(module.removesuffix(WRAPPED))
        shape = self.shapes.get(f"{name}.weight", self.shapes.get(name))
        if shape is None and self.card.tied and ending(name) in OUTPUT_HEADS:
            return self.embedding
        transposed = shape is not None and len(shape) == 2 and self.modules.get(name) in self.card.conv1d
        return shape[::-1] if transposed and shape else shape

    def parameter(self, name: str) -> Shape | None:
        """The shape of the tensor `name` as it is stored."""
        return self.shapes.get(canonical_name(name))

    def experts(self, module: str) -> list[Shape]:
        """The shapes of what lies below `module`: experts, each on its own or in one tensor of three dimensions."""
        below = canonical_name(module.removesuffix(WRAPPED)) + "."
        return [shape for name, shape in self.shapes.items() if name.startswith(below) and len(shape) in (2, 3)]

    def fused(self, module: str) -> str:
        """The module beside which `module` would be, and which holds it fused or split; empty where there is none."""
        name = canonical_name(module)
        parent, _, end = name.rpartition(".")
        kin = (f"{parent}.{other}" if parent else other for other in FUSED.get(end, ()))
        return next((self.modules[one] for one in kin if one in self.modules), "")

    def has(self, module: str) -> bool:
        return self.weight(module) is not None or bool(self.experts(module))

    def takes(self, module: str, fit: Fit) -> bool:
        """Whether an update of such a shape can be added to the module's weight."""
        shape = self.weight(module)
        if shape is None:
            return any(fit.takes(*pair) for pair in _pairs(self.experts(module)))
        return fit.takes(shape[0], shape[1]) if len(shape) > 1 else fit.rows in (None, *shape)


def _pairs(shapes: list[Shape]) -> Iterator[tuple[int, int]]:
    """Rows and columns that an update of experts may have; gate and up are one tensor in memory."""
    for shape in shapes:
        rows, columns = shape[-2:]
        yield rows, columns
        yield (columns, rows) if len(shape) == 3 else (2 * rows, columns)
