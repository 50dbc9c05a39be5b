"""Which base a running vLLM serves: from what it calls its model to the files, and from those to their fingerprints."""

from __future__ import annotations

from pathlib import Path

from adreg.errors import ConflictError, NotFoundError
from adreg.formats.gguf.header import is_gguf
from adreg.registry.cached import cached_folder
from adreg.registry.records import BaseRecord
from adreg.registry.registry import Registry
from adreg.serve.plugin.settings import BASE

SET_BASE = f"set {BASE} to the folder that it was loaded from"


def served_base(registry: Registry, model: str) -> BaseRecord:
    """The base that `model` means, by the content of its files as they are now; registered or not.

    Reads all of it the first time, and afterwards what has changed. Raises what `model_files` does, and `FormatError`.
    """
    return registry.bases.look(str(model_files(model)))


def model_files(model: str) -> Path:
    """The folder or GGUF file that vLLM means by `model`: a path, or a hub id in a cache of this machine.

    Raises `NotFoundError` for what is not here, and `ConflictError` for an id of which the cache holds more than one
    revision: vLLM does not tell its plugins which one it loaded.
    """
    path = Path(model).expanduser()
    if path.is_dir() or is_gguf(path):
        return path.resolve()
    found = cached_folder(model) if "/" in model and not path.is_absolute() else None
    if found is None:
        raise NotFoundError("folder or cached model", model)
    others = [one for one in found.parent.iterdir() if (one / "config.json").is_file()]
    if found.parent.name == "snapshots" and len(others) > 1:
        raise ConflictError(
            f"the cache holds {len(others)} revisions of {model}, and vLLM does not say which it serves", SET_BASE
        )
    return found.resolve()
