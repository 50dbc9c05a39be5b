"""What an unknown file or folder is, with every piece of evidence for it, the strongest first. Never writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError, NotFoundError
from adreg.progress import SILENT, Progress
from adreg.registry.evidence import (
    PROVEN,
    Inside,
    Match,
    by_base_ids,
    by_bytes,
    by_claims,
    by_tensors,
    read_gguf_claims,
    sha256_of,
    short_texts,
)

if TYPE_CHECKING:
    from adreg.registry.registry import Registry

RECORD_LIMIT = 50_000_000
HEADER_LIMIT = 1 << 32


@dataclass(frozen=True)
class Trace:
    """A traced file or folder: its form, every match, and what was found inside of it."""

    path: Path
    form: str
    matches: tuple[Match, ...]
    inside: Inside

    def as_json(self) -> dict[str, Any]:
        matches = [asdict(match) for match in self.matches]
        return {"path": str(self.path), "form": self.form, "matches": matches, "inside": self.inside}


def trace(registry: Registry, path: Path, progress: Progress = SILENT) -> Trace:
    """Find out what lies at `path`. Raises `NotFoundError` where nothing lies."""
    if path.is_dir():
        return _folder(registry, path, progress)
    if not path.is_file():
        raise NotFoundError("file or folder", str(path))
    form, found, inside = _file(registry, path)
    return Trace(path, form, _best(found), inside)


def _folder(registry: Registry, folder: Path, progress: Progress) -> Trace:
    found: list[Match] = []
    inside: Inside = {}
    kinds = {"adapter_config.json": "adapter folder", "config.json": "checkpoint folder"}
    form = next((kind for name, kind in kinds.items() if (folder / name).is_file()), "folder")
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".gguf") and file.is_file():
            _, matches, told = _file(registry, file)
            found += [match for match in matches if match.kind != "base file" or form != "checkpoint folder"]
            inside |= told
    if (folder / "adreg.json").is_file():
        record = _record(folder / "adreg.json", inside)
        found += by_claims(registry, record, "its adreg.json says so")
        inside |= short_texts(record)
    if form == "adapter folder":
        found = [_with_files(registry, match, folder) for match in found]
    if form == "checkpoint folder":
        found += by_base_ids(registry, folder, inside, progress)
    return Trace(folder, form, _best(found), inside)


def _with_files(registry: Registry, match: Match, folder: Path) -> Match:
    """A version that the weights of an adapter folder are, with what the folder's other files say."""
    if match.kind != "version":
        return match
    (version, *_) = registry.adapters.by_digest(match.digest)
    other = [name for name, digest in version.files.items() if sha256_of(folder / name) != digest]
    told = "all its files are that version's" if not other else f"its weights are that version's; {', '.join(other)} differ"
    return replace(match, evidence=told)


def _file(registry: Registry, path: Path) -> tuple[str, list[Match], Inside]:
    """The form of a file, what it matches, and what it says of itself."""
    from adreg.formats.gguf.header import is_gguf

    found = list(by_bytes(registry, path))
    inside: Inside = {"size": path.stat().st_size}
    form = "GGUF file" if is_gguf(path) else "safetensors file" if _is_safetensors(path) else "file"
    try:
        if form == "GGUF file":
            fields, told = read_gguf_claims(path)
            found += by_claims(registry, fields, "its GGUF fields say so")
            inside |= told
        elif form == "safetensors file":
            found += by_tensors(registry, path, inside)
    except FormatError as error:
        inside["damaged"] = error.why
    return form, found, inside


def _is_safetensors(path: Path) -> bool:
    """Whether the file is called so, or begins with the length of a header and the header's first character."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") < HEADER_LIMIT)


def _record(path: Path, inside: Inside) -> Mapping[str, Any]:
    from adreg.formats.strictjson import read_object

    try:
        return read_object(path, "K-CFG-1", RECORD_LIMIT)
    except FormatError as error:
        inside["damaged"] = error.why
        return {}


def _best(found: list[Match]) -> tuple[Match, ...]:
    """Each match once, with its strongest evidence, the proven ones first."""
    kept: dict[tuple[str, str], Match] = {}
    for match in sorted(found, key=lambda match: match.certainty != PROVEN):
        kept.setdefault((match.kind, match.reference), match)
    return tuple(kept.values())
