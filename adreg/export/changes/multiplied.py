"""IA3 and OFT, which multiply a weight instead of adding to it. Sources: peft tuners/ia3/layer.py and tuners/oft/layer.py."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.source import AdaptedModule
from adreg.export.fold.oft import OftUpdate, block_size
from adreg.export.fold.vectors import ScaleUpdate
from adreg.formats.adapters import values as check
from adreg.formats.safetensors import TensorView


def ia3_changes(module: AdaptedModule) -> Iterator[Change]:
    """The outputs of a module are scaled, weight and bias, or of one among `feedforward_modules` the inputs."""
    name, transposed = module.linear()
    scales, label = module.parts["l"], module.source.label
    outputs = scales.shape[1] == 1
    yield Change(name, module.source, ScaleUpdate(scales, label, columns=outputs == transposed))
    if outputs and module.weights.find(f"{module.name}.bias"):
        yield Change(module.tensor("bias"), module.source, ScaleUpdate(scales, label))


def oft_changes(module: AdaptedModule) -> Iterator[Change]:
    """The inputs of a linear layer are rotated, block by block; with `block_share` every block alike."""
    name = module.checked(module.tensor())
    if module.weights.is_transposed(name):
        raise UnsupportedError(f"merging {module.source.label}: an OFT on {module.name!r}, which is no linear layer,")
    path, raw = module.source.adapter.config.path, module.source.adapter.config.raw
    terms = check.size(path, "num_cayley_neumann_terms", raw.get("num_cayley_neumann_terms", 5))
    exact = raw.get("use_cayley_neumann", True) is False
    yield Change(name, module.source, OftUpdate(_rotations(module, name), None if exact else terms, module.source.label))


def _rotations(module: AdaptedModule, name: str) -> TensorView:
    rotations, shape = module.parts["R"], module.weights.view(name).shape
    if len(rotations.shape) != 2 or not rotations.count:
        raise module.source.refusal(f"tensor {rotations.name!r} has shape {rotations.shape}", "B-SHP-2")
    size = block_size(rotations.shape[1])
    shared = module.source.adapter.config.raw.get("block_share") is True
    blocks = shape[-1] // size if shared and rotations.shape[0] == 1 else rotations.shape[0]
    if blocks * size != shape[-1]:
        raise module.source.refusal(f"rotates {blocks} x {size} inputs of {module.name!r}; it has {shape[-1]}", "B-SHP-2")
    return module.shaped("R", rotations.shape[0], size * (size - 1) // 2)
