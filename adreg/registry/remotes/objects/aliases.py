"""What aliases mean in a remote of objects: rows of entries of which the last one counts. Knows no versions."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import ConflictError, FormatError, RemoteError
from adreg.formats.strictjson import parse_object
from adreg.registry.remotes.objects import layout
from adreg.registry.remotes.objects.store import ObjectStore
from adreg.registry.store.blobs import DIGEST

RULE = "S-OBJ-1"


@dataclass(frozen=True)
class Entry:
    """What an alias means from its `sequence`-th change on (`digest` None: nothing); `id` tells whose change it was."""

    sequence: int
    digest: str | None
    id: str


NOTHING = Entry(0, None, "")


def current(store: ObjectStore, name: str, alias: str) -> Entry:
    """What `alias` of `name` means now. Raises `FormatError` for an entry that is none."""
    key = layout.alias_key(name, alias)
    numbers = layout.numbers(store.children(key).objects)
    return _read(store, f"{key}/{layout.numbered(numbers[-1])}", numbers[-1]) if numbers else NOTHING


def move(store: ObjectStore, name: str, alias: str, digest: str | None, expect: str | None) -> None:
    """Make the next entry, if the last one means `expect`. Raises `ConflictError` when another came first."""
    last = current(store, name, alias)
    if last.digest != expect:
        raise _conflict(store, name, alias, last, expect)
    if digest == expect:
        return
    entry = Entry(last.sequence + 1, digest, uuid.uuid4().hex)
    if entry.sequence > layout.LAST:
        raise RemoteError(store.url, f"{name}:{alias} cannot move any more: it has an entry {last.sequence}")
    key = f"{layout.alias_key(name, alias)}/{layout.numbered(entry.sequence)}"
    if store.create(key, json.dumps({"digest": entry.digest, "id": entry.id}).encode()):
        return
    winner = _read(store, key, entry.sequence)
    if winner != entry:  # it is ours when the answer to a first try got lost
        raise _conflict(store, name, alias, winner, expect)


def _read(store: ObjectStore, key: str, sequence: int) -> Entry:
    source = f"{store.url}/{key}"
    said = parse_object(store.read([key])[0] or b"", Path(source), RULE)
    digest, owner = said.get("digest"), said.get("id")
    right = digest is None or (isinstance(digest, str) and DIGEST.fullmatch(digest))
    if set(said) != {"digest", "id"} or not right or not isinstance(owner, str):
        raise FormatError(source, "is no entry of an alias", RULE)
    return Entry(sequence, digest, owner)


def _conflict(store: ObjectStore, name: str, alias: str, found: Entry, expect: str | None) -> ConflictError:
    means = found.digest[:19] if found.digest else "nothing"
    wanted = expect[:19] if expect else "nothing"
    return ConflictError(
        f"{name}:{alias} means {means} on {store.url}, not {wanted}", "look at what it means now, then move it"
    )
