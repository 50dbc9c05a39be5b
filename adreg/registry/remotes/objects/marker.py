"""The object that says that a place in an object store is a remote of adreg. Knows its format, not what else is there."""

from __future__ import annotations

import json
from pathlib import Path

from adreg.errors import ConflictError, FormatError, RemoteError
from adreg.formats.strictjson import parse_object
from adreg.registry.remotes.objects.layout import MARKER
from adreg.registry.remotes.objects.store import Listing, ObjectStore

FORMAT, VERSION = "adreg-remote", 1
CONTENT = json.dumps({"format": FORMAT, "version": VERSION}).encode()


def check_place(store: ObjectStore) -> None:
    """Let pass a remote of this format and a place where nothing is. Raises `ConflictError` or `RemoteError`."""
    if not _is_remote(store) and store.children("") != Listing() and not _is_remote(store):
        raise ConflictError(f"{store.url} holds other things already", "choose a folder or prefix that is empty or new")


def mark(store: ObjectStore) -> None:
    """Make the place a remote."""
    create_once(store, MARKER, CONTENT)
    _is_remote(store)


def create_once(store: ObjectStore, key: str, content: bytes) -> None:
    """Create an object that is there from then on, whoever made it; `RemoteError` from a store that ignores conditions."""
    store.create(key, content)
    if store.create(key, content):
        why = "overwrites objects that must not be there (it ignores If-None-Match), so versions could get lost"
        raise RemoteError(store.url, why, "use a store with conditional writes, or a newer release of this one")


def _is_remote(store: ObjectStore) -> bool:
    """Whether the marker is there. Raises `RemoteError` when it says something else than this format."""
    content = store.read([MARKER])[0]
    if content is None:
        return False
    try:
        said = parse_object(content, Path(MARKER), "S-OBJ-1")
    except FormatError as error:
        raise RemoteError(store.url, f"is no remote of adreg: {error}") from error
    version = said.get("version")
    if said.get("format") != FORMAT or type(version) is not int:
        raise RemoteError(store.url, f"is no remote of adreg: {MARKER} says something else")
    if version != VERSION:
        raise RemoteError(store.url, f"is a remote of format {version}, which a newer adreg wrote", "upgrade adreg")
    return True
