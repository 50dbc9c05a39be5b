"""What of a place for Ray is there already and what is to be sent, found by reading it. Writes nothing, sends nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adreg.errors import ConflictError
from adreg.export.ray.layout import FILES, MARKER, Owner, model_id
from adreg.references import folder_name
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.remotes.objects.store import Listing, ObjectStore
from adreg.registry.store.blobs import BlobStore


@dataclass(frozen=True)
class Placed:
    """A version at its place: `model` is what clients of Ray call it, `missing` the files to be sent, in order, with sizes."""

    version: VersionRecord
    folder: str
    model: str
    missing: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        state = "new" if self.missing else "there"
        return {"reference": self.version.reference, "model": self.model, "digest": self.version.digest, "state": state}


@dataclass(frozen=True)
class RayPlan:
    """The adapters of `owner` at `url`."""

    url: str
    owner: Owner
    adapters: tuple[Placed, ...]

    @property
    def new(self) -> tuple[Placed, ...]:
        return tuple(adapter for adapter in self.adapters if adapter.missing)

    @property
    def size(self) -> int:
        """The bytes that are to be sent."""
        return sum(sum(adapter.missing.values()) for adapter in self.adapters)

    @property
    def rank(self) -> int:
        """The highest rank; vLLM must be started with at least that."""
        return max((int(adapter.version.summary["rank"]) for adapter in self.adapters), default=0)


def plan_layout(store: ObjectStore, blobs: BlobStore, base: BaseRecord, versions: Sequence[VersionRecord]) -> RayPlan:
    """Where `versions`, which run on `base`, go in `store`. What is there under their names is read, every byte of it.

    Raises `ConflictError` where other content is under one of their names, and for a place that holds other things than
    adapters of `base`; `RemoteError` and `FormatError` for a store or a marker that cannot be read.
    """
    owner = Owner(base.name, base.card.ids.weights_id)
    listed = store.children("")
    if not check_owner(store, owner) and listed != Listing():
        hint = "choose a folder or prefix that is empty or new: Ray takes every folder there for an adapter"
        raise ConflictError(f"{store.url} holds other things already", hint)
    places: dict[str, Placed] = {}
    for version in versions:
        folder = folder_name(version.adapter, version.digest)
        if folder in places and places[folder].version.digest != version.digest:
            raise ConflictError(f"two versions of {version.adapter} would both be {folder}", "name only one of them")
        there = _there(store, blobs, folder, version) if folder in listed.folders else ()
        missing = {name: blobs.size(version.files[name]) for name in FILES if name not in there}
        places[folder] = Placed(version, folder, model_id(base.name, version.adapter, version.digest), missing)
    return RayPlan(store.url, owner, tuple(places.values()))


def check_same(store: ObjectStore, key: str, digest: str, size: int) -> None:
    """Raise `ConflictError` unless the object `key` is the blob `digest` of `size` bytes; reads it whole."""
    if store.size(key) == size:
        hasher = hashlib.sha256()
        for piece in store.pieces(key, 0, size):
            hasher.update(piece)
        if f"sha256:{hasher.hexdigest()}" == digest:
            return
    why = f"{store.url}/{key} is there with other content"
    raise ConflictError(why, "look who wrote it; adreg overwrites nothing there: remove that folder, or choose another place")


def check_owner(store: ObjectStore, owner: Owner) -> bool:
    """Whether the place says that it is `owner`'s; False where it says nothing. `ConflictError`: it is another base's."""
    (content,) = store.read([MARKER])
    if content is None:
        return False
    found = Owner.load(content, f"{store.url}/{MARKER}")
    if found.weights_id != owner.weights_id:
        why = f"{store.url} holds adapters of {found.base}, whose weights are not those of {owner.base}"
        raise ConflictError(why, "give each base a place of its own: Ray would offer them on both")
    return True


def _there(store: ObjectStore, blobs: BlobStore, folder: str, version: VersionRecord) -> tuple[str, ...]:
    """The files that are in `folder`. Ray would download whatever else lies there, so there may be nothing else."""
    there = store.children(folder)
    odd = sorted({*there.folders, *there.objects} - set(FILES))
    if odd:
        raise ConflictError(f"{store.url}/{folder} holds {odd[0]!r}, which is none of the adapter's files", "remove it there")
    for name in there.objects:
        check_same(store, f"{folder}/{name}", version.files[name], blobs.size(version.files[name]))
    return there.objects
