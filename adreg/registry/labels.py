"""What people write onto adapters and versions: descriptions, notes, tags, and that a version was taken back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.references import Reference, check_tag
from adreg.registry.aliases import Move, drop_alias
from adreg.registry.manifest import TEXT_LIMIT
from adreg.registry.names import index_adapter, live_id, record_event
from adreg.registry.records import VersionRecord
from adreg.registry.store.database import now, transaction
from adreg.registry.store.sqlite import Database
from adreg.registry.versions import find_versions, resolve_version

TAG_LIMIT = 64


@dataclass(frozen=True)
class Labels:
    """The labels of one registry. A yanked version can be labelled by its number too."""

    db: Database

    def describe(self, name: str, text: str) -> None:
        """Say what the adapter `name` is for."""
        with transaction(self.db):
            adapter_id = live_id(self.db, name)
            self.db.execute("update adapter set description = ? where id = ?", [_checked(text), adapter_id])
            index_adapter(self.db, adapter_id)
            record_event(self.db, adapter_id, "described", text=text[:200])

    def description(self, name: str) -> str:
        row = self.db.execute("select description from adapter where id = ?", [live_id(self.db, name)]).fetchone()
        return str(row[0])

    def note(self, reference: Reference, text: str) -> VersionRecord:
        """Write `text` as the note of a version, in place of the one it has."""
        with transaction(self.db):
            version = resolve_version(self.db, reference, yanked=True)
            self.db.execute("update version set notes = ? where id = ?", [_checked(text), version.id])
            self._changed(version, "note", text=text[:200])
        return self._again(version)

    def tag(self, reference: Reference, tags: Iterable[str]) -> VersionRecord:
        """Add tags to a version; those it has stay."""
        wanted = [check_tag(tag) for tag in tags]
        with transaction(self.db):
            version = resolve_version(self.db, reference, yanked=True)
            new = sorted(set(wanted) - set(version.tags))
            if len(version.tags) + len(new) > TAG_LIMIT:
                raise UsageError(f"{version.reference} would have more than {TAG_LIMIT} tags", "remove some first")
            for tag in new:
                self.db.execute("insert into tag values (?, ?)", [version.id, tag])
            if new:
                self._changed(version, "tag", tags=new)
        return self._again(version)

    def untag(self, reference: Reference, tags: Iterable[str]) -> VersionRecord:
        """Take tags from a version. Raises `NotFoundError` for one it does not have; then none is taken."""
        with transaction(self.db):
            version = resolve_version(self.db, reference, yanked=True)
            gone = sorted(set(tags))
            for tag in gone:
                if tag not in version.tags:
                    raise NotFoundError("tag", f"{tag} on {version.reference}", version.tags)
                self.db.execute("delete from tag where version_id = ? and name = ?", [version.id, tag])
            self._changed(version, "tag removed", tags=gone)
        return self._again(version)

    def tags(self) -> list[tuple[str, int]]:
        """Every tag in use, with the number of versions that have it."""
        query = (
            "select tag.name, count(*) from tag join version on version.id = version_id "
            "join adapter on adapter.id = adapter_id where deleted_at is null group by 1 order by 1"
        )
        return self.db.execute(query).fetchall()

    def yank(self, reference: Reference, reason: str = "", force: bool = False) -> VersionRecord:
        """Take a version back: only its digest finds it from now on. `ConflictError` while aliases mean it, which `force`
        drops."""
        with transaction(self.db):
            version = resolve_version(self.db, reference, yanked=True)
            adapter_id = live_id(self.db, version.adapter)
            if version.aliases and not force:
                named = ", ".join(f"{version.adapter}:{alias}" for alias in version.aliases)
                raise ConflictError(f"{named} would mean nothing", "move the alias first, or drop it with --force")
            for alias in version.aliases:
                drop_alias(self.db, adapter_id, alias, Move(force=True))
            if version.yanked is None:
                self._set_yanked(version, now(), _checked(reason))
                record_event(self.db, adapter_id, "yank", version=version.number, reason=reason)
        return self._again(version)

    def unyank(self, reference: Reference) -> VersionRecord:
        """Make a yanked version one like the others again."""
        with transaction(self.db):
            version = resolve_version(self.db, reference, yanked=True)
            if version.yanked is not None:
                self._set_yanked(version, None, None)
                record_event(self.db, live_id(self.db, version.adapter), "yank undone", version=version.number)
        return self._again(version)

    def _set_yanked(self, version: VersionRecord, moment: str | None, reason: str | None) -> None:
        self.db.execute("update version set yanked_at = ?, yank_reason = ? where id = ?", [moment, reason, version.id])

    def _changed(self, version: VersionRecord, verb: str, **detail: object) -> None:
        adapter_id = live_id(self.db, version.adapter)
        index_adapter(self.db, adapter_id)
        record_event(self.db, adapter_id, verb, version=version.number, **detail)

    def _again(self, version: VersionRecord) -> VersionRecord:
        return find_versions(self.db, "version.id = ?", [version.id])[0]


def _checked(text: str) -> str:
    if len(text) > TEXT_LIMIT or "\0" in text:
        raise UsageError(f"a text holds {TEXT_LIMIT:,} characters at most, and no NUL", "put long texts into the README.md")
    if not text.isascii() and text.encode(errors="ignore").decode() != text:
        raise UsageError("the text is not UTF-8", "write it in UTF-8")
    return text
