"""The demo's impostor: a copy of a base in which one layer's weights carry a little noise."""

from __future__ import annotations

import shutil
from pathlib import Path

from adreg.formats.atomic import atomic_folder
from adreg.formats.bases.checkpoint import SINGLE, open_checkpoint
from adreg.formats.dtypes import from_float32
from adreg.formats.safetensors import TensorView
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

NOISE = 0.01


def make_impostor(base: Path, folder: Path, tensor: str) -> None:
    """Copy the checkpoint in `base` to `folder` with noise of one percent on `tensor`."""
    source = open_checkpoint(base)
    with atomic_folder(folder) as partial:
        for file in base.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copy(file, partial)
        views = source.shards[0].values()
        specs = [TensorSpec(view.name, view.dtype, view.shape) for view in views]
        with (partial / SINGLE).open("wb") as weights:
            writer = SafetensorsWriter(weights, specs, {"format": "pt"})
            for view in views:
                writer.write(_noisy(view) if view.name == tensor else view.data)
            writer.finish()


def _noisy(view: TensorView) -> memoryview:
    import numpy as np

    values = view.float32()
    noise = np.random.default_rng(0).standard_normal(values.shape, dtype=np.float32)
    return from_float32(values + NOISE * values.std() * noise, view.dtype)
