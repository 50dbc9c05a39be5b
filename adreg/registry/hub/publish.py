"""An adapter to the Hugging Face Hub: planned against the head that is there now, sent as one commit on top of it only.

What goes up are the names of a stored version and the model card. A card that a person wrote there stays (see
`card_merge`); a stale run record or loss picture of an earlier adapter goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adreg.errors import ConflictError, FormatError, IntegrityError, NotFoundError, UsageError
from adreg.formats.adapters.adapter import RECORD, WEIGHTS
from adreg.progress import SILENT, Progress
from adreg.registry.hub.card import merge_card
from adreg.registry.hub.checksums import Digests, digests_of
from adreg.registry.hub.client import Hub, Listing
from adreg.registry.hub.errors import hub_errors
from adreg.registry.hub.reference import DEFAULT_BRANCH, HubReference, is_commit
from adreg.registry.push import STORED, plan_push

CARD = "README.md"
CARD_LIMIT = 1 << 20
DESCRIBING = (RECORD, "loss.svg")


@dataclass(frozen=True)
class PublishPlan:
    """What a publish would do on top of `parent` (None: a new repository): send `files`, a path or bytes each, with
    their `digests`, and remove `removed`. `unchanged`: the repository holds all that already."""

    reference: HubReference
    parent: str | None
    files: dict[str, Path | bytes]
    digests: dict[str, Digests]
    removed: tuple[str, ...]
    skipped: tuple[str, ...]
    unchanged: bool

    @property
    def size(self) -> int:
        return sum(digests.size for digests in self.digests.values())


def plan_publish(
    folder: Path,
    reference: HubReference,
    card: str,
    hub: Hub | None = None,
    parent: str | None = None,
    overwrite_card: bool = False,
) -> PublishPlan:
    """Decide what publishing the adapter in `folder` with the model card `card` would change; changes nothing.

    `parent` is the commit that the branch must still be at; without it, the one it is at now. Raises `ConflictError`
    when it is elsewhere, or when the README.md there was written by a person and `overwrite_card` is false.
    """
    if reference.pinned:
        raise UsageError(f"{reference} names a commit, which never changes", f"publish to hf:{reference.repo}")
    hub, push = hub or Hub(), plan_push(folder)
    there = _there(hub, reference)
    head = there.commit if there else None
    if parent is not None and parent != head:
        now = f"is at {head[:12]}" if head else "does not exist yet"
        raise ConflictError(f"{reference} {now}, not at {parent[:12]}", "look at what changed there, then do it again")
    if there and not overwrite_card:
        card = _kept(hub, reference, there, card)
    files: dict[str, Path | bytes] = {**push.files, CARD: card.encode()}
    digests = {name: digests_of(source) for name, source in files.items()}
    held = there.files if there else {}
    removed = tuple(name for name in DESCRIBING if name in held and name not in files)
    unchanged = not removed and all(name in held and held[name].fits(digests[name]) for name in files)
    return PublishPlan(reference, head, files, digests, removed, push.skipped, unchanged)


def publish(plan: PublishPlan, private: bool, hub: Hub | None = None, progress: Progress = SILENT) -> str:
    """Carry `plan` out and give the commit's id; `private` counts for a new repository only.

    One commit, all or nothing; none where nothing would change. Raises `ConflictError` when the branch moved since the
    plan was made, `RemoteError`, or `IntegrityError` when the hub does not list afterwards what was sent.
    """
    if plan.parent and plan.unchanged:
        return plan.parent
    hub, reference = hub or Hub(), plan.reference
    parent = plan.parent or _create(hub, reference, private)
    with progress.task(f"publish {reference}", plan.size, "B") as task:
        commit = _commit(hub, plan, parent)
        task.advance(plan.size)
    _check(plan, hub.list(replace(reference, revision=commit), STORED))
    return commit


def _there(hub: Hub, reference: HubReference) -> Listing | None:
    """What the branch holds now, or None while the repository does not exist."""
    try:
        return hub.list(reference, STORED)
    except NotFoundError as error:
        if error.kind == "hub repository" and reference.revision in (None, DEFAULT_BRANCH):
            return None
        raise


def _create(hub: Hub, reference: HubReference, private: bool) -> str:
    """Make the repository, which nobody may have made meanwhile: the id of its first commit."""
    with hub_errors(reference):
        hub.api().create_repo(reference.repo, private=private, exist_ok=False)
    return hub.list(reference, STORED).commit


def _commit(hub: Hub, plan: PublishPlan, parent: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(name, source) for name, source in plan.files.items()]
    removed = [CommitOperationDelete(name) for name in plan.removed]
    with hub_errors(plan.reference), _no_bars():
        made = hub.api().create_commit(
            plan.reference.repo,
            [*added, *removed],
            commit_message=f"Adapter {plan.digests[WEIGHTS].sha256[:12]}, published by adreg",
            revision=plan.reference.revision or DEFAULT_BRANCH,
            parent_commit=parent,
        )
    if not is_commit(str(made.oid)):
        raise IntegrityError(f"{plan.reference}: the hub names no commit for what was sent")
    return str(made.oid)


def _check(plan: PublishPlan, listing: Listing) -> None:
    """The hub must list what was sent: its .gitignore can leave files out without a word, and uploads can break."""
    for name, sent in plan.digests.items():
        found = listing.files.get(name)
        if found is None or not found.fits(sent):
            state = "lists other bytes for" if found else "does not hold"
            raise IntegrityError(f"{plan.reference}@{listing.commit}: the hub {state} {name} after it was sent")


def _kept(hub: Hub, reference: HubReference, there: Listing, card: str) -> str:
    """`card` put into the README.md that is there. Raises `ConflictError` when that one is a person's."""
    expected = there.files.get(CARD)
    if expected is None:
        return card
    if expected.size > CARD_LIMIT:
        raise FormatError(f"{reference}/{CARD}", f"is larger than {CARD_LIMIT} bytes", "F-DIR-1")
    with tempfile.TemporaryDirectory() as folder, SILENT.task("") as task:
        hub.download(replace(reference, revision=there.commit), CARD, expected, Path(folder) / CARD, task)
        merged = merge_card((Path(folder) / CARD).read_bytes(), card)
    if merged is None:
        why = f"{reference} has a {CARD} that adreg did not write"
        raise ConflictError(why, "--overwrite-card replaces it; or put adreg's two marker lines around a place in it")
    return merged


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the client's own progress bars, which would draw over adreg's."""
    from huggingface_hub import utils

    bars: Any = utils  # its exports are lazy and untyped
    before = bars.are_progress_bars_disabled()
    if not before:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            bars.enable_progress_bars()
