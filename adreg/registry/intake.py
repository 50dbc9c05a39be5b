"""How versions come in: audited, their blobs first, their row last. Nothing partial is ever left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.audit.findings import AuditReport
from adreg.audit.policy import require
from adreg.audit.run import Speed, judge
from adreg.audit.subject import RegistryFacts, Subject
from adreg.errors import ConflictError, IntegrityError
from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.text.tokenizer import stored_tokenizer
from adreg.references import check_alias, check_name
from adreg.registry.commit import Draft, commit_version
from adreg.registry.identity import tensors_id
from adreg.registry.manifest import FileEntry, Manifest
from adreg.registry.names import one
from adreg.registry.push import Content, PushPlan, read_content, summarize
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.store.blobs import Blob, BlobStore
from adreg.registry.store.database import transaction
from adreg.registry.store.leases import Lease
from adreg.registry.store.sqlite import Database
from adreg.registry.versions import find_versions

NAMES = "select name from adapter where deleted_at is null order by name"


@dataclass(frozen=True)
class Pushed:
    """The version that a push made or found, what the audit said, and whether it is new."""

    version: VersionRecord
    report: AuditReport
    new: bool


@dataclass(frozen=True)
class Intake:
    """The way into one registry."""

    db: Database
    blobs: BlobStore

    def push(self, plan: PushPlan, name: str, alias: str | None, base: BaseRecord | None, origin: str) -> Pushed:
        """As `Adapters.push`."""
        check_name(name)
        with Lease(self.db, f"push {name}") as held, self.blobs.staged(plan.files) as copies:
            paths = {path: copy.path for path, copy in copies.items()}
            examined = _examine(self.db, name, paths, base, base.card.ids if base else None)
            files = {path: FileEntry(copy.digest(), copy.size) for path, copy in copies.items()}
            draft = replace(examined.draft(name, files), alias=alias and check_alias(alias), origin=origin)
            stored: list[Blob] = []
            try:
                for copy in copies.values():
                    stored.append(self.blobs.planned(copy))  # before it is there: an interrupt may come in between
                    self.blobs.publish(copy.path, copy.digest())
                return self._commit(draft, examined.report, held)
            except BaseException:
                self._discard(stored)
                raise

    def receive(self, manifest: Manifest, alias: str | None, origin: str, held: Lease) -> Pushed:
        """As `Adapters.receive`."""
        if alias is not None and manifest.yanked is not None:
            raise ConflictError(f"{manifest.name}:{manifest.number} was yanked at {origin}", "take it without an alias")
        for path, file in manifest.files.items():
            if self.blobs.size(file.digest) != file.size:
                raise IntegrityError(f"{path} of {manifest.name} has not the {file.size} bytes that its manifest says")
        paths = {path: self.blobs.path(file.digest) for path, file in manifest.files.items()}
        examined = _examine(self.db, manifest.name, paths, None, manifest.trained_on)
        draft = examined.draft(manifest.name, manifest.files)
        if draft.digest != manifest.digest:
            raise IntegrityError(f"{manifest.name}:{manifest.number} from {origin} has not the digest {manifest.digest}")
        told = replace(draft, notes=manifest.notes, tags=manifest.tags, yanked=manifest.yanked)
        parents = {parent.digest: parent for parent in (*manifest.parents, *draft.parents)}
        return self._commit(replace(told, alias=alias, origin=origin, parents=tuple(parents.values())), examined.report, held)

    def _commit(self, draft: Draft, found: AuditReport, held: Lease) -> Pushed:
        self.blobs.settle(file.digest for file in draft.files.values())
        with transaction(self.db):
            version_id, new = commit_version(self.db, self.blobs, draft)
            held.release()
        (version,) = find_versions(self.db, "version.id = ?", [version_id])
        return Pushed(version, found, new)

    def _discard(self, blobs: Iterable[Blob]) -> None:
        """Remove what a failed push stored, unless a version came to use it."""
        with transaction(self.db):
            for blob in blobs:
                if blob.new and one(self.db, "select 1 from version_file where digest = ?", [blob.digest]) is None:
                    self.blobs.remove(blob.digest)


@dataclass(frozen=True)
class _Examined:
    """What the files of a version say, and what the audit says of them."""

    content: Content
    trained_on: BaseIds | None
    report: AuditReport
    tensors: str

    def draft(self, name: str, files: dict[str, FileEntry]) -> Draft:
        evidence = "recorded" if self.content.trained_on else "declared" if self.trained_on else "none"
        summary = summarize(self.content, evidence, self.tensors)
        return Draft(name, None, files, summary, self.trained_on, self.content.run, self.content.parents)


def _examine(db: Database, name: str, paths: Mapping[str, Path], base: BaseRecord | None, claimed: BaseIds | None) -> _Examined:
    """Audit files that are adreg's own already: those they were copied from could change meanwhile.

    `claimed` is the base that somebody names; what the training itself recorded outranks it.
    """
    content = read_content(paths)
    trained_on = content.trained_on or claimed
    subject = Subject(
        inspection=content.inspection,
        trained_on=trained_on,
        base=base.card if base else None,
        run=content.run,
        registry=RegistryFacts(name=name, names=tuple(row[0] for row in db.execute(NAMES))),
        tokenizer=stored_tokenizer(paths),
    )
    with ThreadPoolExecutor(1) as beside:  # BLAKE3 reads the tensors while the rules do
        tensors = beside.submit(tensors_id, content.weights)
        found = judge(subject, Speed.VALUES)
        require("push", name, found)
        return _Examined(content, trained_on, found, tensors.result())
