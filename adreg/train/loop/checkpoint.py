"""Checkpoints on disk: folders that appear whole, with the SHA-256 of every file. Knows tensors by name, not what they mean."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import IntegrityError, NotFoundError
from adreg.formats.atomic import atomic_folder
from adreg.formats.digests import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

NAME = re.compile(r"checkpoint-(\d+)")
PARTIAL = re.compile(r"\.checkpoint-\d+\.[0-9a-f]+\.partial")
MANIFEST, STATE = "manifest.json", "state.json"
ADAPTER, OPTIMIZER, BEST = "adapter.safetensors", "optimizer.safetensors", "best.safetensors"
FILES = (STATE, ADAPTER, OPTIMIZER, BEST)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are what its manifest says. `state` is what was given to `write_checkpoint`."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`, on the CPU; none where the checkpoint has no such file."""
        from safetensors.torch import load_file

        return load_file(self.folder / name) if (self.folder / name).is_file() else {}


def write_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write `run/checkpoint-<step>`, whole or not at all, over one that lies there. Raises `StorageError`.

    `tensors` maps a file's name to what goes into it; `state` is anything that JSON holds.
    """
    from safetensors.torch import save

    place = run / f"checkpoint-{step}"
    if place.exists():
        shutil.rmtree(place)
    with atomic_folder(place) as folder:
        for name, content in tensors.items():
            (folder / name).write_bytes(save(dict(content)))
        (folder / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        files = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    return place


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises `IntegrityError` where a file is missing, foreign or not what was written."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        found = {file.name for file in folder.iterdir()} - {MANIFEST}
        if set(files) != found or not found <= set(FILES):
            raise IntegrityError(f"{folder} is incomplete: its manifest names other files than it holds")
        for name, digest in files.items():
            if file_sha256(folder / name) != digest:
                raise IntegrityError(f"{folder / name} is damaged: it does not have the digest that was written down")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Checkpoint(folder, int(state["step"]), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder} is no whole checkpoint: {error}") from error


def newest_checkpoint(place: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint of a run's folder, or the one that `place` is; damaged ones are passed over with a warning.

    Raises `NotFoundError` where there is none.
    """
    if NAME.fullmatch(place.name):
        return read_checkpoint(place)
    for step in reversed(steps(place)):
        try:
            return read_checkpoint(place / f"checkpoint-{step}")
        except IntegrityError as error:
            warn(f"{error}; the checkpoint before it is taken")
    raise NotFoundError("checkpoint", str(place))


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints in a run's folder, lowest first, whole or not."""
    found = (NAME.fullmatch(entry.name) for entry in run.iterdir()) if run.is_dir() else iter(())
    return sorted(int(match[1]) for match in found if match)


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a killed process left half written."""
    for step in steps(run)[: -keep or None]:
        shutil.rmtree(run / f"checkpoint-{step}", ignore_errors=True)
    for entry in list(run.iterdir()) if run.is_dir() else []:
        if PARTIAL.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
