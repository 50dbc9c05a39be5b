"""For where no Ollama answers: a Modelfile beside the GGUF file, and the commands that make the model of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.errors import ConflictError
from adreg.export.ollama.plan import OllamaPlan
from adreg.formats.atomic import atomic_file


@dataclass(frozen=True)
class Prepared:
    """A model that is still to be created, by `commands`, from `modelfile`."""

    name: str
    modelfile: Path
    commands: tuple[str, ...]


def prepare(plan: OllamaPlan) -> Prepared:
    """Write the Modelfile of `plan`, unless there is one that says the same. Raises `ConflictError` for another file there."""
    path = plan.written or _write(plan)
    name = shlex.quote(str(plan.name))
    return Prepared(str(plan.name), path, (f"ollama create {name} -f {shlex.quote(str(path))}", f"ollama run {name}"))


def _write(plan: OllamaPlan) -> Path:
    folder = plan.model.path.absolute().parent
    path = folder / f"{plan.name.model}.Modelfile"
    lora = _from(folder, plan.adapter.path) if plan.adapter else None
    text = replace(plan.modelfile, model=_from(folder, plan.model.path), adapter=lora).text()
    if path.exists() and path.read_bytes() != text.encode():
        raise ConflictError(f"{path} says something else", "use it with --modelfile, or remove it")
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _from(folder: Path, path: Path) -> str:
    """`path` as a Modelfile in `folder` names it."""
    return f"./{path.name}" if path.absolute().parent == folder else str(path.absolute())
