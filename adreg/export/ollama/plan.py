"""A model for Ollama as a plan: which GGUF files, and what their Modelfile says of them. Reads headers, writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adreg.errors import NotFoundError, UnsupportedError, UsageError
from adreg.export.ollama.modelfile import Modelfile, read_modelfile
from adreg.export.ollama.names import ModelName
from adreg.export.ollama.parameters import Value, merged, parameter_value
from adreg.export.ollama.recommended import modelfile_of_gguf
from adreg.formats.gguf.header import GgufFile, read_gguf


@dataclass(frozen=True)
class OllamaRequest:
    """What the caller wants: a model called `name` of the file `gguf`, or of the one that `modelfile` names.

    Without `modelfile`, the one that lies beside the GGUF file and names it is read. `system`, `adapter` and `parameters`
    (texts such as `temperature=0.7`) go before what a Modelfile says.
    """

    name: str
    gguf: Path | None = None
    modelfile: Path | None = None
    adapter: Path | None = None
    system: str | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class OllamaPlan:
    """A model to create. `written` is the Modelfile on disk that says all of `modelfile`, if there is one."""

    name: ModelName
    model: GgufFile
    adapter: GgufFile | None
    modelfile: Modelfile
    written: Path | None

    @property
    def files(self) -> tuple[GgufFile, ...]:
        return (self.model, self.adapter) if self.adapter else (self.model,)

    @property
    def size(self) -> int:
        """Bytes of the GGUF files."""
        return sum(file.status.st_size for file in self.files)

    def describe(self) -> dict[str, Any]:
        """The plan in plain values, for `--dry-run` and for records."""
        return {
            "name": str(self.name),
            "model": str(self.model.path),
            "adapter": str(self.adapter.path) if self.adapter else None,
            "bytes": self.size,
            "modelfile": self.modelfile.text(),
        }


def plan_model(request: OllamaRequest) -> OllamaPlan:
    """Check everything that can be known from headers. Raises `UsageError`, `NotFoundError`, `FormatError` for what is no
    GGUF file, `UnsupportedError` for a model in several files."""
    name = ModelName.parse(request.name)
    written = request.modelfile or (_beside(request.gguf) if request.gguf else None)
    said = _read(written) if written else None
    path = request.gguf or (Path(said.model) if said else None)
    if path is None:
        raise UsageError("there is nothing to create a model from", "name a GGUF file, or a --modelfile that does")
    model = _open(path, "model")
    wanted = _as_wanted(said or modelfile_of_gguf(model), request, path)
    adapter = _open(Path(wanted.adapter), "adapter") if wanted.adapter else None
    kinds = [str(file.fields.get("general.architecture")) for file in (model, adapter) if file]
    if len(set(kinds)) > 1:
        raise UsageError(f"{wanted.adapter} is for {kinds[1]}, and {path} is {kinds[0]}", "use the base it was made for")
    changed = request.system or request.parameters or request.adapter or (request.modelfile and request.gguf)
    return OllamaPlan(name, model, adapter, wanted, None if changed else written)


def _as_wanted(said: Modelfile, request: OllamaRequest, path: Path) -> Modelfile:
    """`said` for the model at `path`, with the wishes of `request`."""
    return replace(
        said,
        model=str(path.absolute()),
        adapter=str(request.adapter.absolute()) if request.adapter else said.adapter,
        system=request.system or said.system,
        parameters=merged(dict(said.parameters), given_parameters(request.parameters)),
    )


def given_parameters(texts: Iterable[str]) -> dict[str, Value]:
    """The values of texts such as `temperature=0.7`. Raises `UsageError`."""
    found: dict[str, Value] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} sets no parameter", "write NAME=VALUE, such as temperature=0.7")
        found = merged(found, {name: parameter_value(name, value)})
    return found


def _beside(gguf: Path) -> Path | None:
    """The Modelfile beside `gguf` whose FROM names it."""
    for path in (gguf.with_suffix(".Modelfile"), gguf.with_name("Modelfile")):
        if path.is_file() and gguf.exists():
            named = Path(_read(path).model)
            if named.exists() and named.samefile(gguf):
                return path
    return None


def _read(path: Path) -> Modelfile:
    """The Modelfile at `path`, with the files that it names as paths from the root."""
    said, folder = read_modelfile(path), path.absolute().parent
    adapter = str(folder / _home(said.adapter)) if said.adapter else None
    return replace(said, model=str(folder / _home(said.model)), adapter=adapter)


def _home(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib's raises for a user that there is not


def _open(path: Path, kind: str) -> GgufFile:
    if not path.exists():
        raise NotFoundError("GGUF file", str(path))
    file = read_gguf(path)
    if file.fields.get("general.type", "model") != kind:
        raise UsageError(f"{path} is a GGUF {file.fields.get('general.type', 'model')}, not {kind}")
    if file.fields.get("split.count", 0) != 0:
        raise UnsupportedError(f"{path}, one part of a split GGUF,", "join the parts with llama-gguf-split --merge")
    return file
