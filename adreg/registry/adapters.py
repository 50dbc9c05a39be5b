"""Adapters: pushed, found, opened, pulled, named and removed. Every change is one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import AuditReport
from adreg.audit.run import audit, require
from adreg.errors import IntegrityError
from adreg.formats.adapter import CONFIG, WEIGHTS, Adapter, load_adapter
from adreg.formats.atomic import atomic_folder
from adreg.references import Reference, check_alias, check_name
from adreg.registry.blobs import Blob, BlobStore
from adreg.registry.database import now, transaction
from adreg.registry.names import drop_alias, live_id, one, point_alias, record_event, removed_id
from adreg.registry.push import PushPlan, summarize
from adreg.registry.records import BaseRecord, Event, VersionRecord
from adreg.registry.sqlite import Database
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

    def push(self, plan: PushPlan, name: str, alias: str | None, base: BaseRecord | None) -> Pushed:
        """Store `plan` as the next version of `name`. Raises `AuditRefused` or `StorageError`; then nothing changed.

        `base` is what the user says it was trained on; what the training itself recorded outranks it.
        """
        check_name(name)
        stored: dict[str, Blob] = {}
        try:
            for file in plan.files:
                stored[file.name] = self.blobs.put(file)
            draft, found = self._draft(plan, name, alias and check_alias(alias), base, stored)
            with transaction(self.db):
                number, new = commit_version(self.db, self.blobs, draft)
        except BaseException:
            self._discard(stored.values())
            raise
        return Pushed(self.resolve(Reference(name, version=number)), found, new)

    def _draft(
        self, plan: PushPlan, name: str, alias: str | None, base: BaseRecord | None, stored: dict[str, Blob]
    ) -> tuple[Draft, AuditReport]:
        """Audit the stored blobs, not the folder they came from: that could change meanwhile."""
        adapter = self._load({path: blob.digest for path, blob in stored.items()})
        trained_on = plan.trained_on or (base.card.ids if base else None)
        found = audit(adapter, trained_on, base.card if base else None)
        require("push", str(plan.folder), found)
        evidence = "recorded" if plan.trained_on else "declared" if base else "none"
        return Draft(name, alias, stored, summarize(adapter, evidence), trained_on, plan.run), found

    def _discard(self, blobs: Iterable[Blob]) -> None:
        """Remove what a failed push stored, unless a version came to use it."""
        with transaction(self.db):
            for blob in blobs:
                if blob.new and one(self.db, "select 1 from version_file where digest = ?", [blob.digest]) is None:
                    self.blobs.remove(blob.digest)

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
        return audit(self.open(version), version.trained_on, base)

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
