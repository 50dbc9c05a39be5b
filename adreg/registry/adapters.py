"""Adapters: pushed, found, opened, pulled, named and removed. Every change is one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import AuditReport
from adreg.audit.policy import require
from adreg.audit.run import audit, judge
from adreg.audit.subject import RegistryFacts, Subject
from adreg.errors import IntegrityError
from adreg.formats.adapter import CONFIG, WEIGHTS, Adapter, load_adapter
from adreg.formats.atomic import atomic_folder
from adreg.formats.fingerprint import BaseIds
from adreg.formats.inspection import inspect_files
from adreg.references import Reference, check_alias, check_name
from adreg.registry.manifest import FileEntry, Manifest, Parent
from adreg.registry.names import drop_alias, live_id, one, point_alias, record_event, removed_id
from adreg.registry.push import PushPlan, read_content, summarize
from adreg.registry.records import BaseRecord, Event, VersionRecord
from adreg.registry.store.blobs import Blob, BlobStore
from adreg.registry.store.database import now, transaction
from adreg.registry.store.leases import Lease, lease
from adreg.registry.store.sqlite import Database
from adreg.registry.versions import NEWEST, Draft, commit_version, find_versions, resolve_version


@dataclass(frozen=True)
class Pushed:
    """The version that a push made or found, what the audit said, and whether it is new."""

    version: VersionRecord
    report: AuditReport
    new: bool


@dataclass(frozen=True)
class Adapters:
    """The adapters of one registry."""

    db: Database
    blobs: BlobStore

    def push(self, plan: PushPlan, name: str, alias: str | None, base: BaseRecord | None, origin: str = "push") -> Pushed:
        """Store `plan` as the next version of `name`. Raises `AuditRefused` or `StorageError`; then nothing changed.

        `base` is what the user says it was trained on; what the training itself recorded outranks it.
        """
        check_name(name)
        stored: dict[str, Blob] = {}
        with lease(self.db, f"push {name}") as held:
            try:
                for path, file in plan.files.items():
                    stored[path] = self.blobs.put(file)
                files = {path: FileEntry(blob.digest, blob.size) for path, blob in stored.items()}
                draft, found = self._draft(name, files, base)
                return self._commit(replace(draft, alias=alias and check_alias(alias), origin=origin), found, held)
            except BaseException:
                self._discard(stored.values())
                raise

    def receive(self, manifest: Manifest, alias: str | None, origin: str, held: Lease) -> Pushed:
        """Make the version of `manifest`, whose blobs are stored already under the lease `held`, the next of its name.

        Nothing of the manifest is believed that its files tell: they are audited here as at a push.
        """
        for path, file in manifest.files.items():
            if self.blobs.size(file.digest) != file.size:
                raise IntegrityError(f"{path} of {manifest.name} has not the {file.size} bytes that its manifest says")
        draft, found = self._draft(manifest.name, manifest.files, None, manifest.trained_on)
        if draft.digest != manifest.digest:
            raise IntegrityError(f"{manifest.name}:{manifest.number} from {origin} has not the digest {manifest.digest}")
        draft = replace(draft, alias=alias, origin=origin, notes=manifest.notes, tags=manifest.tags)
        return self._commit(draft, found, held)

    def _draft(
        self, name: str, files: dict[str, FileEntry], base: BaseRecord | None, claimed: BaseIds | None = None
    ) -> tuple[Draft, AuditReport]:
        """Audit the stored blobs, not the folder they came from: that could change meanwhile."""
        content = read_content({path: self.blobs.path(file.digest) for path, file in files.items()})
        trained_on = content.trained_on or claimed or (base.card.ids if base else None)
        found = audit(content.adapter, trained_on, base.card if base else None)
        require("push", name, found)
        evidence = "recorded" if content.trained_on else "declared" if trained_on else "none"
        summary = summarize(content.adapter, evidence)
        return Draft(name, None, files, summary, trained_on, content.run, content.parents), found

    def _commit(self, draft: Draft, found: AuditReport, held: Lease) -> Pushed:
        self.blobs.settle(file.digest for file in draft.files.values())
        with transaction(self.db):
            number, new = commit_version(self.db, self.blobs, draft)
            held.release()
        return Pushed(self.resolve(Reference(draft.name, version=number)), found, new)

    def _discard(self, blobs: Iterable[Blob]) -> None:
        """Remove what a failed push stored, unless a version came to use it."""
        with transaction(self.db):
            for blob in blobs:
                if blob.new and one(self.db, "select 1 from version_file where digest = ?", [blob.digest]) is None:
                    self.blobs.remove(blob.digest)

    def manifest(self, version: VersionRecord) -> Manifest:
        """The version as it travels."""
        sizes = {path: FileEntry(digest, self.blobs.size(digest)) for path, digest in version.files.items()}
        rows = self.db.query("select digest, reference, relation from parent where version_id = ? order by 1", [version.id])
        return Manifest(
            name=version.adapter,
            number=version.number,
            digest=version.digest,
            files=sizes,
            trained_on=version.trained_on,
            created_at=version.created_at,
            notes=version.notes,
            tags=version.tags,
            parents=tuple(Parent(**row) for row in rows),
            yanked=version.yanked,
        )

    def all(self) -> list[VersionRecord]:
        """The newest version of every adapter, by name."""
        return find_versions(self.db, f"deleted_at is null and {NEWEST} order by adapter.name")

    def versions(self, name: str) -> list[VersionRecord]:
        """Every version of `name`, newest first."""
        return find_versions(self.db, "adapter.id = ? order by number desc", [live_id(self.db, name)])

    def resolve(self, reference: Reference) -> VersionRecord:
        """The one version that `reference` means. Raises `NotFoundError` with near misses."""
        return resolve_version(self.db, reference)

    def open(self, version: VersionRecord) -> Adapter:
        """The adapter of a version, straight from its blobs."""
        return self._load(version.files)

    def audit(self, version: VersionRecord, base: BaseCard | None) -> AuditReport:
        return judge(self.subject(version, base))

    def subject(self, version: VersionRecord, base: BaseCard | None, target: str = "adreg") -> Subject:
        """The version as the audit sees it. Raises `IntegrityError` where a blob is missing."""
        files = {path: self.blobs.path(digest) for path, digest in version.files.items()}
        for path, blob in files.items():
            if not blob.exists():
                raise IntegrityError(f"blob {version.files[path]} ({path}) is missing")
        facts = RegistryFacts(name=version.adapter, weights_sha256=version.files[WEIGHTS])
        return Subject(inspect_files(files), version.trained_on, base, target=target, registry=facts)

    def pull(self, version: VersionRecord, folder: Path) -> None:
        """Write the version's files to `folder`, every byte checked; it appears whole or not at all."""
        with atomic_folder(folder) as partial:
            for path, digest in version.files.items():
                self.blobs.copy_out(digest, partial / path)

    def aliases(self, name: str | None = None) -> list[dict[str, str]]:
        """Every alias (of `name`) as `alias`, `reference` and `updated_at`."""
        only = "and adapter.name = :name" if name else ""
        if name:
            live_id(self.db, name)
        query = (
            "select adapter.name || ':' || alias.name as alias, adapter.name || ':' || number as reference, updated_at "
            "from alias join adapter on adapter.id = alias.adapter_id join version on version.id = version_id "
            f"where deleted_at is null {only} order by 1"
        )
        return list(self.db.query(query, {"name": name}))

    def set_alias(self, reference: Reference, alias: str) -> VersionRecord:
        """Make `alias` mean the version that `reference` means now."""
        check_alias(alias)
        with transaction(self.db):
            version = self.resolve(reference)
            point_alias(self.db, live_id(self.db, version.adapter), alias, version.number)
        return self.resolve(Reference(version.adapter, version=version.number))

    def remove_alias(self, name: str, alias: str) -> None:
        with transaction(self.db):
            drop_alias(self.db, live_id(self.db, name), name, alias)

    def remove(self, name: str) -> None:
        """Take `name` out of every listing; its versions stay until `restore` or a clean-up."""
        with transaction(self.db):
            adapter_id = live_id(self.db, name)
            self.db.execute("update adapter set deleted_at = ? where id = ?", [now(), adapter_id])
            record_event(self.db, adapter_id, "removed")

    def restore(self, name: str) -> None:
        """Bring a removed adapter back."""
        with transaction(self.db):
            adapter_id = removed_id(self.db, name)
            self.db.execute("update adapter set deleted_at = null where id = ?", [adapter_id])
            record_event(self.db, adapter_id, "restored")

    def log(self, name: str) -> list[Event]:
        """The history of `name`, newest first."""
        rows = self.db.query("select * from event where adapter_id = ? order by id desc", [live_id(self.db, name)])
        return [Event(row["at"], row["verb"], json.loads(row["detail"])) for row in rows]

    def _load(self, files: dict[str, str]) -> Adapter:
        for name in (CONFIG, WEIGHTS):
            if not self.blobs.path(files[name]).exists():
                raise IntegrityError(f"blob {files[name]} ({name}) is missing")
        return load_adapter(self.blobs.path(files[CONFIG]), self.blobs.path(files[WEIGHTS]))
