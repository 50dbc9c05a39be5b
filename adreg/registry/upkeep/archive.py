"""The format of a backup: an uncompressed tar with a manifest, the database and the blobs, in that order. Knows no registry.

Any tar program can read one. This reader takes no tar program's liberties: only plain files, with exactly the names and
sizes that the manifest promises, in its order, and nothing after them.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adreg.errors import FormatError
from adreg.formats.strictjson import parse_object
from adreg.registry.manifest import FileEntry
from adreg.registry.store.blobs import DIGEST
from adreg.registry.store.copies import PIECE

RULE = "S-BAK-1"
KIND, FORMAT = "adreg backup", 1
MANIFEST, DATABASE = "manifest.json", "adreg.db"
MANIFEST_LIMIT = 256_000_000
BLOCK = 512
END = 2 * BLOCK


@dataclass(frozen=True)
class BackupManifest:
    """What a backup holds. `absent` are blobs that were lost before it was made."""

    created_at: str
    schema: str
    counts: dict[str, int]
    database: FileEntry
    blobs: tuple[FileEntry, ...]
    absent: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return self.database.size + sum(blob.size for blob in self.blobs)

    @property
    def members(self) -> list[tuple[str, FileEntry]]:
        """The files after the manifest: their names in the archive and what they must hold."""
        return [(DATABASE, self.database), *((blob_name(blob.digest), blob) for blob in self.blobs)]

    def dump(self) -> bytes:
        return json.dumps({"kind": KIND, **asdict(self)}, indent=1).encode()


def blob_name(digest: str) -> str:
    """Where a blob lies in a registry and in its backup."""
    value = digest.removeprefix("sha256:")
    return f"blobs/sha256/{value[:2]}/{value}"


def write_member(archive: BinaryIO, name: str, size: int, source: BinaryIO) -> str:
    """Append a file; the digest of the `size` bytes that were read from `source`. Raises `FormatError` when it is shorter."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o444
    archive.write(header.tobuf(tarfile.GNU_FORMAT))
    hasher = hashlib.sha256()
    for piece in _pieces(source, size, name):
        hasher.update(piece)
        archive.write(piece)
    archive.write(bytes(-size % BLOCK))
    return f"sha256:{hasher.hexdigest()}"


def finish(archive: BinaryIO) -> None:
    """The end of the archive: two empty blocks."""
    archive.write(bytes(END))


def read_manifest(archive: BinaryIO, path: Path) -> BackupManifest:
    """The manifest, checked, which must account for every byte of the file. Raises `FormatError` (rule S-BAK-1)."""
    size = _read_header(archive, path, MANIFEST)
    if size > MANIFEST_LIMIT:
        raise FormatError(path, f"its manifest claims {size} bytes", RULE)
    manifest = _manifest(parse_object(b"".join(_pieces(archive, size, path)), path, RULE), path)
    _read_padding(archive, path, size)
    expected = _padded(size) + sum(_padded(entry.size) for _, entry in manifest.members) + END
    found = path.stat().st_size
    if found != expected:
        raise FormatError(path, f"holds {found} bytes; its manifest accounts for {expected}", RULE)
    return manifest


def read_member(archive: BinaryIO, path: Path, name: str, entry: FileEntry, target: BinaryIO) -> None:
    """Copy the next file to `target`. Raises `FormatError` unless it is the plain file `name` with the bytes of `entry`."""
    size = _read_header(archive, path, name)
    if size != entry.size:
        raise FormatError(path, f"its {name} claims {size} bytes; the manifest says {entry.size}", RULE)
    hasher = hashlib.sha256()
    for piece in _pieces(archive, size, path):
        hasher.update(piece)
        target.write(piece)
    _read_padding(archive, path, size)
    if f"sha256:{hasher.hexdigest()}" != entry.digest:
        raise FormatError(path, f"its {name} is damaged: the bytes hash to sha256:{hasher.hexdigest()}", RULE)


def read_end(archive: BinaryIO, path: Path) -> None:
    """Nothing may follow the files."""
    if archive.read(END + 1) != bytes(END):
        raise FormatError(path, "does not end where its manifest says", RULE)


def _read_header(archive: BinaryIO, path: Path, name: str) -> int:
    """The size in the header of the next file, which must be the plain file `name`."""
    block = archive.read(BLOCK)
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise FormatError(path, f"has no {name}: {error}", RULE) from error
    if header.name != name or header.type != tarfile.REGTYPE or header.linkname or header.size < 0:
        raise FormatError(path, f"holds {header.name[:200]!r} (type {header.type!r}) where the file {name} belongs", RULE)
    return header.size


def _read_padding(archive: BinaryIO, path: Path, size: int) -> None:
    if any(archive.read(-size % BLOCK)):
        raise FormatError(path, "hides bytes between its files", RULE)


def _padded(size: int) -> int:
    return BLOCK + size + -size % BLOCK


def _pieces(source: BinaryIO, size: int, what: Path | str) -> Iterator[bytes]:
    """Exactly `size` bytes."""
    left = size
    while left:
        piece = source.read(min(PIECE, left))
        if not piece:
            raise FormatError(what, f"is cut short: {left} of {size} bytes are missing", RULE)
        left -= len(piece)
        yield piece


def _manifest(value: dict[str, Any], path: Path) -> BackupManifest:
    if value.pop("kind", None) != KIND or value.get("format") != FORMAT:
        raise FormatError(path, "is no backup of adreg, or one that a newer adreg made", RULE)
    try:
        database, blobs = FileEntry(**value.pop("database")), tuple(FileEntry(**entry) for entry in value.pop("blobs"))
        found = BackupManifest(database=database, blobs=blobs, absent=tuple(value.pop("absent")), **value)
        entries = (database, *blobs)
        digests = [entry.digest for entry in blobs]
        sound = (
            all(DIGEST.fullmatch(entry.digest) and type(entry.size) is int and 0 <= entry.size < 2**53 for entry in entries)
            and digests == sorted(set(digests))
            and all(DIGEST.fullmatch(digest) for digest in found.absent)
            and isinstance(found.created_at, str)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise FormatError(path, f"its manifest is none: {error}", RULE) from error
    if not sound:
        raise FormatError(path, "its manifest names files that cannot be", RULE)
    return found
