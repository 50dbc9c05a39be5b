"""Adapters: found, listed, opened, pulled, named and removed; `intake` brings them in. Every change is one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adreg.errors import ConflictError, IntegrityError
from adreg.references import Reference, check_alias
from adreg.registry.aliases import FREELY, Move, check_unprotected, drop_alias, list_aliases, point_alias
from adreg.registry.names import Row, live_id, one, record_event, removed_id
from adreg.registry.records import AliasRecord, Event, VersionRecord
from adreg.registry.search import Hit, search_adapters
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database
from adreg.registry.versions import Wanted, find_versions, resolve_version, wanted_rows, wanted_versions

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard
    from adreg.audit.findings import AuditReport
    from adreg.audit.policy import Decision
    from adreg.audit.subject import Subject
    from adreg.formats.adapters.adapter import Adapter
    from adreg.formats.adapters.inspection import Inspection
    from adreg.formats.strictjson import JsonObject
    from adreg.registry.intake import Pushed
    from adreg.registry.manifest import Manifest, Parent
    from adreg.registry.push import PushPlan
    from adreg.registry.records import BaseRecord
    from adreg.registry.store.leases import Lease


@dataclass(frozen=True)
class Adapters:
    """The adapters of one registry."""

    db: Database
    blobs: BlobStore

    def push(self, plan: PushPlan, name: str, alias: str | None, base: BaseRecord | None, origin: str = "push") -> Pushed:
        """Store `plan` as the next version of `name`. Raises `AuditRefused` or `StorageError`; then nothing changed.

        `base` is what the user says it was trained on; what the training itself recorded outranks it.
        """
        from adreg.registry.intake import Intake

        return Intake(self.db, self.blobs).push(plan, name, alias, base, origin)

    def receive(self, manifest: Manifest, alias: str | None, origin: str, held: Lease) -> Pushed:
        """Make the version of `manifest`, whose blobs are stored already under the lease `held`, the next of its name.

        Nothing of the manifest is believed that its files tell: they are audited here as at a push.
        """
        from adreg.registry.intake import Intake

        return Intake(self.db, self.blobs).receive(manifest, alias, origin, held)

    def manifest(self, version: VersionRecord) -> Manifest:
        """The version as it travels."""
        from adreg.registry.manifest import FileEntry, Manifest

        return Manifest(
            name=version.adapter,
            number=version.number,
            digest=version.digest,
            files={path: FileEntry(digest, self.blobs.size(digest)) for path, digest in version.files.items()},
            trained_on=version.trained_on,
            created_at=version.created_at,
            notes=version.notes,
            tags=version.tags,
            parents=tuple(self.parents(version)),
            yanked=version.yanked,
        )

    def parents(self, version: VersionRecord) -> list[Parent]:
        """The adapters that a version was made of, as they were called then."""
        from adreg.registry.manifest import Parent

        query = "select digest, reference, relation from parent where version_id = ? order by 2, 1"
        return [Parent(**row) for row in self.db.query(query, [version.id])]

    def children(self, version: VersionRecord) -> list[tuple[VersionRecord, str]]:
        """The versions made of this one, and how (merged or continued)."""
        query = "select version_id, relation from parent where digest = ? order by 1"
        found = self.db.execute(query, [version.digest]).fetchall()
        return [(find_versions(self.db, "version.id = ?", [id_])[0], relation) for id_, relation in found]

    def names(self) -> list[str]:
        """The names of the adapters that were not removed."""
        return [row[0] for row in self.db.execute("select name from adapter where deleted_at is null order by name")]

    def all(self) -> list[VersionRecord]:
        """The newest version of every adapter, by name."""
        return wanted_versions(self.db, Wanted())

    def versions(self, name: str) -> list[VersionRecord]:
        """Every version of `name`, yanked ones too, newest first."""
        return wanted_versions(self.db, Wanted(name))

    def wanted(self, wanted: Wanted) -> list[VersionRecord]:
        """The versions that are wanted, complete."""
        return wanted_versions(self.db, wanted)

    def listed(self, wanted: Wanted) -> list[Row]:
        """The versions that are wanted, only with what a table shows: reference, digest, aliases, tags, base, rank,
        parameters, size, created_at and yanked."""
        return wanted_rows(self.db, wanted)

    def search(self, words: str) -> list[Hit]:
        """The adapters whose name, description, notes or tags hold every word, best first."""
        return search_adapters(self.db, words)

    def resolve(self, reference: Reference, yanked: bool = False) -> VersionRecord:
        """The one version that `reference` means; `yanked`: by its number even one that was taken back.

        Raises `NotFoundError` with near misses, or `YankedError`.
        """
        return resolve_version(self.db, reference, yanked)

    def by_digest(self, digest: str) -> list[VersionRecord]:
        """The versions with this digest, under whatever names."""
        return find_versions(self.db, "version.digest = ? and deleted_at is null order by version.id", [digest])

    def open(self, version: VersionRecord) -> Adapter:
        """The LoRA adapter of a version, straight from its blobs. Raises `UnsupportedError` for another family."""
        from adreg.formats.adapters.adapter import CONFIG, WEIGHTS, load_adapter

        files = self._files(version, (CONFIG, WEIGHTS))
        return load_adapter(files[CONFIG], files[WEIGHTS])

    def inspect(self, version: VersionRecord) -> Inspection:
        """What the files of a version are, of whatever family. Raises `IntegrityError` where a blob is missing."""
        from adreg.formats.adapters.inspection import inspect_files

        return inspect_files(self._files(version, version.files))

    def _files(self, version: VersionRecord, names: Iterable[str]) -> dict[str, Path]:
        """The blobs of the files `names`, all there."""
        files = {name: self.blobs.path(version.files[name]) for name in names}
        for name, blob in files.items():
            if not blob.exists():
                raise IntegrityError(f"blob {version.files[name]} ({name}) is missing")
        return files

    def audit(self, version: VersionRecord, base: BaseCard | None) -> AuditReport:
        """What the audit says of a version, beside `base`."""
        from adreg.audit.run import judge

        return judge(self.subject(version, base))

    def subject(self, version: VersionRecord, base: BaseCard | None, target: str = "adreg") -> Subject:
        """The version as the audit sees it. Raises `IntegrityError` where a blob is missing."""
        from adreg.audit.subject import Subject
        from adreg.formats.text.tokenizer import stored_tokenizer
        from adreg.registry.neighbours import facts_of

        inspection = self.inspect(version)
        facts = facts_of(self.db, self.blobs, version, self.parents(version))
        return Subject(
            inspection=inspection,
            trained_on=version.trained_on,
            base=base,
            run=self._run(version),
            target=target,
            registry=facts,
            tokenizer=stored_tokenizer(inspection.files),
        )

    def remember(self, version: VersionRecord, decision: Decision) -> None:
        """Write into the history what somebody allowed in spite of the audit; nothing where nothing had to be allowed."""
        from adreg.audit.policy import VERB

        if decision.event is not None:
            with transaction(self.db):
                adapter_id = live_id(self.db, version.adapter)
                record_event(self.db, adapter_id, VERB, version=version.number, digest=version.digest, **decision.event)

    def _run(self, version: VersionRecord) -> JsonObject | None:
        row = one(self.db, "select record from run where id = ?", [version.run]) if version.run else None
        return json.loads(row["record"]) if row else None

    def pull(self, version: VersionRecord, folder: Path, hardlink: bool = False) -> None:
        """Write the version's files to `folder`, every byte checked; it appears whole or not at all.

        `hardlink`: read-only files that are the store's own where the file system allows it, which nobody may change.
        """
        from adreg.formats.atomic import atomic_folder

        with atomic_folder(folder) as partial:
            for path, digest in version.files.items():
                if not (hardlink and self.blobs.link_out(digest, partial / path)):
                    self.blobs.copy_out(digest, partial / path)

    def aliases(self, name: str | None = None) -> list[AliasRecord]:
        """Every alias (of `name`)."""
        return list_aliases(self.db, name)

    def set_alias(self, reference: Reference, alias: str, move: Move = FREELY) -> VersionRecord:
        """Make `alias` mean the version that `reference` means now. `ConflictError` where `move` does not allow it."""
        check_alias(alias)
        with transaction(self.db):
            version = self.resolve(reference)
            point_alias(self.db, live_id(self.db, version.adapter), alias, version.id, move)
        return find_versions(self.db, "version.id = ?", [version.id])[0]

    def remove_alias(self, name: str, alias: str, move: Move = FREELY) -> None:
        """Remove an alias; a protected one only by force."""
        with transaction(self.db):
            drop_alias(self.db, live_id(self.db, name), alias, move)

    def remove(self, name: str, force: bool = False) -> None:
        """Take `name` out of every listing; its versions stay until `restore` or a clean-up.

        Raises `ConflictError` while it has a protected alias, unless by force.
        """
        with transaction(self.db):
            adapter_id = live_id(self.db, name)
            if not force:
                check_unprotected(self.db, adapter_id, name, f"adreg rm {name} --force")
            self.db.execute("update adapter set deleted_at = ? where id = ?", [now(), adapter_id])
            record_event(self.db, adapter_id, "removed")

    def restore(self, name: str) -> None:
        """Bring a removed adapter back. Raises `ConflictError` when a clean-up has purged it."""
        with transaction(self.db):
            adapter_id = removed_id(self.db, name)
            if self.db.execute("select purged_at from adapter where id = ?", [adapter_id]).fetchone()[0]:
                raise ConflictError(f"the files of {name!r} were cleaned up", "take them from a backup or a remote")
            self.db.execute("update adapter set deleted_at = null where id = ?", [adapter_id])
            record_event(self.db, adapter_id, "restored")

    def log(self, name: str, alias: str | None = None) -> list[Event]:
        """The history of `name` (or of one of its aliases, whether it still exists or not), newest first."""
        rows = self.db.query("select * from event where adapter_id = ? order by id desc", [live_id(self.db, name)])
        events = [Event(row["at"], row["verb"], json.loads(row["detail"])) for row in rows]
        return [event for event in events if alias is None or event.detail.get("alias") == alias]
