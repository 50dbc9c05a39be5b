"""An adapter from the Hugging Face Hub: one commit, the files of an adapter only, every byte checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from adreg.errors import FormatError, PickleRefused
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.atomic import atomic_folder
from adreg.progress import SILENT, Progress
from adreg.registry.hub.client import Hub, Listing
from adreg.registry.hub.reference import HubReference
from adreg.registry.push import STORED

WEIGHTS_LIMIT = 32 << 30
FILE_LIMIT = 100 << 20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class HubCopy:
    """What was fetched: `files` by name of the commit `commit`, now in `folder`; `skipped` stayed there (hostile text)."""

    folder: Path
    repo: str
    commit: str
    files: tuple[str, ...]
    skipped: tuple[str, ...]


def fetch(reference: HubReference, into: Path, hub: Hub | None = None, progress: Progress = SILENT) -> HubCopy:
    """Write the adapter that `reference` means now to the new folder `into`; it appears whole or not at all.

    Raises `NotFoundError`, `RemoteError`, `IntegrityError` (bytes are not the listed ones), `PickleRefused` or
    `FormatError` (no adapter there, or files beyond the limits).
    """
    hub = hub or Hub()
    listing = hub.list(reference, STORED)
    _require_adapter(reference, listing)
    pinned = replace(reference, revision=listing.commit)
    with atomic_folder(into) as partial, progress.task(f"fetch {reference}", _size(listing), "B") as task:
        for name, expected in listing.files.items():
            hub.download(pinned, name, expected, partial / name, task)
    return HubCopy(into, reference.repo, listing.commit, tuple(sorted(listing.files)), listing.others)


def _require_adapter(reference: HubReference, listing: Listing) -> None:
    """An adapter's two files are there and none is beyond the limits; known before anything is downloaded."""
    if WEIGHTS not in listing.files:
        for name in listing.others:
            if name.lower().endswith(PICKLES):
                raise PickleRefused(f"{reference}/{name}")
    for name in (CONFIG, WEIGHTS):
        if name not in listing.files:
            raise FormatError(str(reference), f"has no {name}: not a PEFT adapter", "F-DIR-1")
    for name, expected in listing.files.items():
        limit = WEIGHTS_LIMIT if name == WEIGHTS else FILE_LIMIT
        if expected.size > limit:
            raise FormatError(f"{reference}/{name}", f"is larger than {limit} bytes", "F-DIR-1")


def _size(listing: Listing) -> int:
    return sum(expected.size for expected in listing.files.values())
