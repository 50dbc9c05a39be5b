"""A remote made of objects: `s3://`, `gs://` and `file://`. Knows versions and aliases, not what keeps the objects.

Everything goes through one primitive, creating an object under the condition that it is not there: version n+1 is what
was created first under that number, and an alias moves by the creation of its next entry.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adreg.errors import BadReference, ConflictError, FormatError, IntegrityError, NotFoundError, RemoteError
from adreg.formats.atomic import disk_errors
from adreg.formats.digests import file_sha256
from adreg.formats.strictjson import parse_object
from adreg.registry.manifest import Manifest
from adreg.registry.remotes.objects import aliases, layout
from adreg.registry.remotes.objects.marker import check_place, mark
from adreg.registry.remotes.objects.store import ObjectStore, require_small
from adreg.registry.remotes.objects.url import find_store

RULE = "S-OBJ-1"


def open_object_store(url: str) -> ObjectRemote:
    """The remote at `url` (a `Remote`), or a new one where nothing is yet; what is sent first makes it.

    Credentials and endpoints come from the environment that the store's own tools use. Raises `UsageError`,
    `MissingExtra`, `RemoteError`, or `ConflictError` where other things are.
    """
    store = find_store(url)
    check_place(store)
    return ObjectRemote(store)


class ObjectRemote:
    """The remote in `store`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._manifests: dict[str, Manifest] = {}
        self._begun = False

    @property
    def url(self) -> str:
        return self.store.url

    def names(self) -> list[str]:
        """The adapters it holds; what could not be one's name is not."""
        found = []
        for space in layout.namespaces(self.store.children(layout.ADAPTERS).folders):
            folders = self.store.children(f"{layout.ADAPTERS}/{space}").folders
            found += [layout.adapter_name(space, folder) for folder in folders]
        return sorted(name for name in found if name)

    def versions(self, name: str) -> list[Manifest]:
        """Every version of `name`, by number. Raises `FormatError` for a manifest that is none."""
        return self._read(name, layout.numbers(self.store.children(layout.versions_key(name)).objects))

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → digest of the version that it means. Raises `FormatError` for an entry that is none."""
        known = layout.aliases(self.store.children(layout.aliases_key(name)).folders)
        meanings = {alias: aliases.current(self.store, name, alias).digest for alias in known}
        return {alias: digest for alias, digest in meanings.items() if digest}

    def has_blob(self, digest: str) -> bool:
        return self.store.size(layout.blob_key(digest)) is not None

    def fetch_blob(self, digest: str, size: int, target: Path) -> None:
        """Append to `target` what it lacks of a blob of `size` bytes. The caller checks the digest.

        Raises `NotFoundError`, or `IntegrityError` when the blob has another size there.
        """
        key = layout.blob_key(digest)
        there = self.store.size(key)
        if there is None:
            raise NotFoundError("blob", digest)
        if there != size:
            raise IntegrityError(f"{self.url}: blob {digest} has {there} bytes there, not {size}")
        with disk_errors(target), target.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            for piece in self.store.pieces(key, file.tell(), size):
                file.write(piece)

    def store_blob(self, digest: str, size: int, source: Path) -> None:
        """Send a blob, if it is not there. Raises `IntegrityError` when `source` is not that blob, or what is there is not."""
        key = layout.blob_key(digest)
        there = self.store.size(key)
        if there is None:
            _check_source(digest, size, source)
            self._begin()
            self.store.upload(key, source)
            there = self.store.size(key)
        if there != size:
            raise IntegrityError(f"{self.url}: {there} bytes are under {key}, where {size} belong; remove that object")

    def add_version(self, manifest: Manifest) -> int:
        """Make it the next version of its name: its number. Raises `ConflictError` while a blob of it is missing."""
        for path, file in manifest.files.items():
            if self.store.size(layout.blob_key(file.digest)) != file.size:
                raise ConflictError(f"{self.url} does not hold {path} of {manifest.name}", "send the files first")
        self._begin()
        known = self.versions(manifest.name)
        for version in known:
            if version.digest == manifest.digest:
                return version.number
        return self._add_after(known[-1].number if known else 0, manifest)

    def set_alias(self, name: str, alias: str, digest: str, expect: str | None) -> None:
        """Make `alias` mean the version `digest`, if it means `expect` now. Raises `ConflictError` or `NotFoundError`."""
        known = self.versions(name)
        if digest not in (version.digest for version in known):
            raise NotFoundError("version", f"{name}@{digest[:19]}", [f"{name}:{version.number}" for version in known[-3:]])
        aliases.move(self.store, name, alias, digest, expect)

    def remove_alias(self, name: str, alias: str, expect: str) -> None:
        """Let `alias` mean nothing, if it means `expect` now. Raises `ConflictError`."""
        aliases.move(self.store, name, alias, None, expect)

    def _begin(self) -> None:
        """Before the first change: make sure that this place is a remote, and that its store can be relied on."""
        if not self._begun:
            mark(self.store)
            self._begun = True

    def _add_after(self, newest: int, manifest: Manifest) -> int:
        """Create the manifest under the first number above `newest` that is free, unless someone creates it meanwhile."""
        for number in range(newest + 1, layout.LAST + 1):
            content = json.dumps(replace(manifest, number=number).as_json()).encode()
            key = _version_key(manifest.name, number)
            if self.store.create(key, require_small(f"{self.url}/{key}", content)):
                return number
            if self._read(manifest.name, [number])[0].digest == manifest.digest:
                return number
        raise RemoteError(self.url, f"{manifest.name} takes no more versions: it has a version {newest}")

    def _read(self, name: str, numbers: Sequence[int]) -> list[Manifest]:
        """Versions by number. One that was read is not read again: it never changes."""
        keys = [_version_key(name, number) for number in numbers]
        unread = [key for key in keys if key not in self._manifests]
        for key, content in zip(unread, self.store.read(unread), strict=True):
            self._manifests[key] = _parsed(f"{self.url}/{key}", content or b"")
        for key, number in zip(keys, numbers, strict=True):
            found = self._manifests[key]
            if (found.name, found.number) != (name, number):
                raise FormatError(f"{self.url}/{key}", f"is the manifest of {found.name}:{found.number}", RULE)
        return [self._manifests[key] for key in keys]


def _version_key(name: str, number: int) -> str:
    return f"{layout.versions_key(name)}/{layout.numbered(number)}"


def _parsed(source: str, content: bytes) -> Manifest:
    try:
        return Manifest.from_json(parse_object(content, Path(source), RULE), source)
    except BadReference as error:
        raise FormatError(source, str(error), RULE) from error


def _check_source(digest: str, size: int, source: Path) -> None:
    """What is sent under a digest must have it: nobody could replace it there."""
    found = f"sha256:{file_sha256(source)}"
    if found != digest or source.stat().st_size != size:
        raise IntegrityError(f"{source} is not the blob {digest} of {size} bytes: its bytes hash to {found}")
