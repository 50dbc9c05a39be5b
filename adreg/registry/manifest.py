"""A version as it travels between registries: its files by digest, its base, where it comes from. Plain JSON, checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError
from adreg.references import check_name, check_tag
from adreg.registry.store.blobs import DIGEST

if TYPE_CHECKING:
    from adreg.formats.bases.fingerprint import BaseIds

RULE = "S-MAN-1"
FILE_LIMIT, TEXT_LIMIT = 64, 100_000
RELATIONS = ("merged", "continued")
REQUIRED_IDS = ("arch_id", "weights_id", "content_id", "values_id", "cfg_id")


@dataclass(frozen=True)
class FileEntry:
    """A file of a version: `digest` is `sha256:<64 hex>`."""

    digest: str
    size: int


@dataclass(frozen=True)
class Parent:
    """An adapter that a version was made of; `relation` is merged or continued."""

    digest: str
    reference: str
    relation: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a version that is not in its files. `number` is its number where it comes from."""

    name: str
    number: int
    digest: str
    files: dict[str, FileEntry]
    trained_on: BaseIds | None
    created_at: str
    notes: str = ""
    tags: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    yanked: str | None = None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, source: str) -> Manifest:
        """Read what came from `source`. Raises `FormatError` (rule S-MAN-1) for anything that is not a whole manifest."""
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise FormatError(source, "is no manifest of a version", RULE)
        found = cls(
            name=check_name(_text(value["name"], source, "name")),
            number=_count(value["number"], source, "number"),
            digest=_digest(value["digest"], source),
            files=_files(value["files"], source),
            trained_on=base_ids(value["trained_on"], source),
            created_at=_text(value["created_at"], source, "created_at"),
            notes=_text(value["notes"], source, "notes"),
            tags=tuple(check_tag(_text(tag, source, "tags")) for tag in _list(value["tags"], source, "tags")),
            parents=read_parents(value["parents"], source),
            yanked=None if value["yanked"] is None else _text(value["yanked"], source, "yanked"),
        )
        if found.digest != version_digest(found.files, found.trained_on):
            raise FormatError(source, f"its digest {found.digest} is not that of its files and base", RULE)
        return found


def version_digest(files: Mapping[str, FileEntry], trained_on: BaseIds | None) -> str:
    """The digest that names a version: SHA-256 over its files by digest, and its base."""
    content = {
        "base": trained_on.weights_id if trained_on else None,
        "files": {name: file.digest for name, file in files.items()},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def base_ids(value: object, source: str) -> BaseIds | None:
    """Recorded ids of a base, or None for None; ids that older records lack are None."""
    from adreg.formats.bases.fingerprint import BaseIds

    if value is None:
        return None
    known = set(BaseIds.__dataclass_fields__)
    if not isinstance(value, dict) or not set(value) <= known:
        raise FormatError(source, "its base ids are not the ids of a base", "K-CFG-1")
    ids: dict[str, Any] = {name: value.get(name) for name in known}
    if not all(_is_id(found) or (found is None and name not in REQUIRED_IDS) for name, found in ids.items()):
        raise FormatError(source, "its base ids are not hashes", "K-CFG-1")
    return BaseIds(**ids)


def read_parents(value: object, source: str) -> tuple[Parent, ...]:
    """The parents that a record or manifest names."""
    found = []
    for entry in _list(value, source, "parents"):
        if not isinstance(entry, dict) or set(entry) != set(Parent.__dataclass_fields__) or entry["relation"] not in RELATIONS:
            raise FormatError(source, "its parents are not digest, reference and relation (merged or continued)", RULE)
        found.append(Parent(_digest(entry["digest"], source), _text(entry["reference"], source, "parents"), entry["relation"]))
    return tuple(found)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("b3:[0-9a-f]{64}", value) is not None


def _files(value: object, source: str) -> dict[str, FileEntry]:
    if not isinstance(value, dict) or not 0 < len(value) <= FILE_LIMIT:
        raise FormatError(source, "its files are not a map of names", RULE)
    found = {}
    for name, entry in value.items():
        if not isinstance(entry, dict) or set(entry) != {"digest", "size"}:
            raise FormatError(source, f"its file {name[:80]!r} has no digest and size", RULE)
        found[name] = FileEntry(_digest(entry["digest"], source), _count(entry["size"], source, "size"))
    return found


def _digest(value: object, source: str) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise FormatError(source, "names something that is no SHA-256 digest", RULE)
    return value


def _text(value: object, source: str, field: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise FormatError(source, f"its {field} is no text of a sensible length", RULE)
    return value


def _count(value: object, source: str, field: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise FormatError(source, f"its {field} is no whole number", RULE)
    return value


def _list(value: object, source: str, field: str) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > FILE_LIMIT:
        raise FormatError(source, f"its {field} is no short list", RULE)
    return list(value)
