"""Carries out a merge plan: the artifact appears whole and proven, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.errors import StorageError, VerificationFailed
from adreg.export.gguf.stamp import stamp
from adreg.export.gguf.writer import write_gguf
from adreg.export.ollama.recommended import modelfile_of
from adreg.export.plan import MergePlan
from adreg.export.safetensors import write_checkpoint
from adreg.formats.atomic import atomic_file, atomic_folder
from adreg.formats.digests import file_sha256
from adreg.progress import SILENT, Progress

if TYPE_CHECKING:
    from adreg.export.proof.verdict import Verification

MODELFILE, REJECTED = "Modelfile", ".rejected"


@dataclass(frozen=True)
class OutputFile:
    """A file of an artifact."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class MergeResult:
    """What was written; `main` is the GGUF file, or the first weights file of a checkpoint. `verification` is None
    where none was asked for."""

    path: Path
    main: OutputFile
    files: tuple[OutputFile, ...]
    verification: Verification | None


def run_merge(plan: MergePlan, progress: Progress = SILENT) -> MergeResult:
    """Write what `plan` describes, and verify it where the request says so.

    Raises `StorageError` when it does not fit, and `VerificationFailed` for what does not behave as it should: that is
    set aside under the output's name and `.rejected`.
    """
    if shutil.disk_usage(_existing(plan.path)).free < plan.disk_needed:
        raise StorageError(plan.path, f"it needs {plan.disk_needed:,} bytes, more than are free")
    if plan.request.target == "safetensors":
        return _checkpoint(plan, progress)
    return _gguf_file(plan, progress) if plan.path == plan.request.output else _gguf_folder(plan, progress)


def _checkpoint(plan: MergePlan, progress: Progress) -> MergeResult:
    with atomic_folder(plan.path) as folder:
        digests = write_checkpoint(plan, folder, progress)
        proof = _proven(plan, folder, folder, progress)
    return _result(plan, plan.path / plan.shards[0].name, sorted(plan.path.iterdir()), digests, proof)


def _gguf_folder(plan: MergePlan, progress: Progress) -> MergeResult:
    """A folder with the GGUF file under its conventional name, and the Modelfile of a model."""
    with atomic_folder(plan.request.output) as folder:
        digest = write_gguf(plan, folder / plan.path.name, progress)
        if plan.alpha is None:
            (folder / MODELFILE).write_text(modelfile_of(plan).text(), encoding="utf-8")
        proof = _proven(plan, folder / plan.path.name, folder, progress)
    digests = {} if proof else {plan.path.name: digest}
    return _result(plan, plan.path, sorted(plan.request.output.iterdir()), digests, proof)


def _gguf_file(plan: MergePlan, progress: Progress) -> MergeResult:
    """The GGUF file at the very path that was asked for, the Modelfile of a model beside it under the same stem."""
    beside, files = plan.path.with_suffix(f".{MODELFILE}"), [plan.path]
    with atomic_file(plan.path) as partial:
        digest = write_gguf(plan, partial, progress)
        proof = _proven(plan, partial, partial, progress)
    if plan.alpha is None:
        with atomic_file(beside) as partial:
            partial.write_text(modelfile_of(plan).text(), encoding="utf-8")
        files.append(beside)
    return _result(plan, plan.path, files, {} if proof else {plan.path.name: digest}, proof)


def _proven(plan: MergePlan, main: Path, whole: Path, progress: Progress) -> Verification | None:
    """The verification of `main`, which a GGUF file then holds; what fails is moved aside with all of `whole`."""
    if not plan.request.verify:
        return None
    from adreg.export.proof.verify import verify_merge

    try:
        proof = verify_merge(plan, main, progress)
        proof.require()
    except VerificationFailed as error:
        aside = _free(plan.request.output)
        whole.replace(aside)
        raise VerificationFailed(f"{aside} is set aside: {error}") from error
    if plan.request.target != "safetensors":
        stamp(main, proof.as_json())
    return proof


def _free(output: Path) -> Path:
    """A name beside `output` for what was rejected."""
    names = (f"{output.name}{REJECTED}{f'-{count}' if count else ''}" for count in range(1000))
    return next(path for path in map(output.with_name, names) if not path.exists())


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _result(
    plan: MergePlan, main: Path, files: list[Path], digests: Mapping[str, str], proof: Verification | None
) -> MergeResult:
    """`digests` are those that are known by the names of the files."""
    outputs = {file: OutputFile(file, file.stat().st_size, digests.get(file.name) or file_sha256(file)) for file in files}
    return MergeResult(plan.path, outputs[main], tuple(outputs.values()), proof)
