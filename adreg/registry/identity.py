"""What the tensors of a safetensors file are, whatever its metadata and order: the same adapter saved again has the same id."""

from __future__ import annotations

from adreg.formats.bases.leaves import WINDOW_BYTES, digest, leaf_hasher
from adreg.formats.safetensors import SafetensorsFile, TensorView


def tensors_id(file: SafetensorsFile) -> str:
    """`b3:` and a hash over every tensor's name, type, shape and bytes."""
    leaves = [(name, stored_leaf(view)) for name, view in sorted(file.items())]
    return digest("adreg.tensors.v1", *(part for leaf in leaves for part in leaf))


def stored_leaf(view: TensorView) -> str:
    """The hash of a tensor's type, shape and bytes, as `Leaf.stored` of a base has it."""
    hasher = leaf_hasher(view.dtype, view.shape)
    for window in view.windows(WINDOW_BYTES):
        hasher.update(window)
    return hasher.hexdigest()
