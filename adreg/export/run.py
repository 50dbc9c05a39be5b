"""Carries out a merge plan: the artifact appears whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import StorageError
from adreg.export.gguf.writer import write_gguf
from adreg.export.ollama.recommended import modelfile_of
from adreg.export.plan import MergePlan
from adreg.export.safetensors import write_checkpoint
from adreg.formats.atomic import atomic_file, atomic_folder
from adreg.progress import SILENT, Progress

MODELFILE = "Modelfile"


@dataclass(frozen=True)
class OutputFile:
    """A file of an artifact."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class MergeResult:
    """What was written; `main` is the GGUF file, or the first weights file of a checkpoint."""

    path: Path
    main: OutputFile
    files: tuple[OutputFile, ...]


def run_merge(plan: MergePlan, progress: Progress = SILENT) -> MergeResult:
    """Write what `plan` describes. Raises `StorageError` when it does not fit."""
    _check_room(plan)
    if plan.request.target == "safetensors":
        with atomic_folder(plan.path) as folder:
            digests = write_checkpoint(plan, folder, progress)
        return _result(plan.path, sorted(plan.path.iterdir()), plan.path / plan.shards[0].name, digests)
    return _gguf_file(plan, progress) if plan.path == plan.request.output else _gguf_folder(plan, progress)


def _gguf_folder(plan: MergePlan, progress: Progress) -> MergeResult:
    """A folder with the GGUF file under its conventional name, and the Modelfile."""
    text = modelfile_of(plan).text()
    with atomic_folder(plan.request.output) as folder:
        digest = write_gguf(plan, folder / plan.path.name, progress)
        (folder / MODELFILE).write_text(text, encoding="utf-8")
    return _result(plan.path, [plan.path, plan.path.with_name(MODELFILE)], plan.path, {plan.path.name: digest})


def _gguf_file(plan: MergePlan, progress: Progress) -> MergeResult:
    """The GGUF file at the very path that was asked for, the Modelfile beside it under the same stem."""
    text, beside = modelfile_of(plan).text(), plan.path.with_suffix(f".{MODELFILE}")
    with atomic_file(plan.path) as partial:
        digest = write_gguf(plan, partial, progress)
    with atomic_file(beside) as partial:
        partial.write_text(text, encoding="utf-8")
    return _result(plan.path, [plan.path, beside], plan.path, {plan.path.name: digest})


def _check_room(plan: MergePlan) -> None:
    place = next(parent for parent in plan.path.absolute().parents if parent.is_dir())
    if shutil.disk_usage(place).free < plan.disk_needed:
        raise StorageError(plan.path, f"it needs {plan.disk_needed:,} bytes, more than are free")


def _result(path: Path, files: list[Path], main: Path, digests: dict[str, str]) -> MergeResult:
    """`digests` are those that are known by the names of the files."""
    outputs = {file: OutputFile(file, file.stat().st_size, digests.get(file.name) or _sha256(file)) for file in files}
    return MergeResult(path, outputs[main], tuple(outputs.values()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
