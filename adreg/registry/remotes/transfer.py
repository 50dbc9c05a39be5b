"""Versions between this registry and a remote: blobs first, the manifest last; checked and audited where they arrive."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from adreg.errors import AuditRefused, FormatError, IntegrityError, NotFoundError, StorageError, YankedError
from adreg.progress import SILENT, Progress
from adreg.references import Reference
from adreg.registry.intake import Pushed
from adreg.registry.manifest import FileEntry, Manifest
from adreg.registry.names import one
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.remotes.partials import Partials
from adreg.registry.remotes.remote import Remote
from adreg.registry.remotes.swap import swap_alias
from adreg.registry.store.database import transaction
from adreg.registry.store.leases import Lease

FOLDER = "downloads"
DISK_RESERVE = 64 << 20


@dataclass(frozen=True)
class Sent:
    """What a transfer to a remote did: the version's number there, and the blobs and bytes that went over the line."""

    number: int
    blobs: int
    size: int


def send(
    registry: Registry,
    version: VersionRecord,
    remote: Remote,
    alias: str | None = None,
    expect: str | None = None,
    progress: Progress = SILENT,
) -> Sent:
    """Send a version, and then make `alias` mean it there, if it means `expect` (a digest, None: nothing) there now.

    Raises `RemoteError`, `ConflictError` when the alias moved, `IntegrityError` when a blob here is damaged.
    """
    manifest = registry.adapters.manifest(version)
    files = {file.digest: file.size for file in manifest.files.values()}
    missing = {digest: size for digest, size in files.items() if not remote.has_blob(digest)}
    with progress.task(f"send {version.reference}", sum(missing.values()), "B") as task:
        for digest, size in missing.items():
            registry.blobs.check(digest)
            remote.store_blob(digest, size, registry.blobs.path(digest))
            task.advance(size)
    number = remote.add_version(manifest)
    if alias is not None and expect != manifest.digest:
        remote.set_alias(manifest.name, alias, manifest.digest, expect)
    return Sent(number, len(missing), sum(missing.values()))


def find_manifest(remote: Remote, reference: Reference) -> Manifest:
    """The version that `reference` means at `remote`, where numbers and aliases are its own. Raises `NotFoundError`."""
    found = remote.versions(reference.name)
    if not found:
        raise NotFoundError("adapter", reference.name, difflib.get_close_matches(reference.name, remote.names(), 3))
    if reference.version:
        chosen = [manifest for manifest in found if manifest.number == reference.version]
    elif reference.digest:
        chosen = [manifest for manifest in found if manifest.digest.startswith(reference.digest)]
    elif reference.alias:
        meant = remote.aliases(reference.name).get(reference.alias)
        chosen = [manifest for manifest in found if manifest.digest == meant]
    else:
        chosen = [manifest for manifest in found if manifest.yanked is None][-1:]
    if len(chosen) != 1:
        raise NotFoundError("version", str(reference), [f"{reference.name}:{manifest.number}" for manifest in found[-3:]])
    if chosen[0].yanked is not None and not reference.digest:
        raise YankedError(str(reference), chosen[0].digest, chosen[0].yanked)
    return chosen[0]


def receive(
    registry: Registry, remote: Remote, manifest: Manifest, alias: str | None = None, progress: Progress = SILENT
) -> Pushed:
    """Fetch the blobs of `manifest` that are not here, then make it the next version of its name, audited as at a push.

    `alias` may not mean another version here. Raises `RemoteError`, `IntegrityError`, `AuditRefused` or `ConflictError`;
    then no version is made, and what was fetched of a blob is kept to go on from.
    """
    wanted = {file.digest: file for file in manifest.files.values()}
    with Lease(registry.db, f"pull {manifest.name}") as held:
        missing = [file for file in wanted.values() if not _is_here(registry, file)]
        size = sum(file.size for file in missing)
        _require_space(registry, size)
        with progress.task(f"fetch {manifest.name}:{manifest.number}", size, "B") as task:
            for file in missing:
                fetch(registry, remote, file)
                task.advance(file.size)
        try:
            pushed = registry.adapters.receive(manifest, None, f"{remote.url} {manifest.name}:{manifest.number}", held)
        except (AuditRefused, FormatError, IntegrityError):
            _discard(registry, missing)
            raise
    if alias is None or alias in pushed.version.aliases:
        return pushed
    return replace(pushed, version=swap_alias(registry, manifest.name, alias, manifest.digest, None))


def _discard(registry: Registry, files: list[FileEntry]) -> None:
    """Remove what was fetched for a version that is refused, unless another came to use it."""
    with transaction(registry.db):
        for file in files:
            if one(registry.db, "select 1 from version_file where digest = ?", [file.digest]) is None:
                registry.blobs.remove(file.digest)


def fetch(registry: Registry, remote: Remote, file: FileEntry) -> None:
    """Make a blob of the remote one here; its size and digest are checked before it gets its place."""
    partials = Partials(registry.settings.home / "tmp" / FOLDER)
    with partials.claim(file.digest.removeprefix("sha256:")) as path:
        begun = path.exists()
        remote.fetch_blob(file.digest, file.size, path)
        if begun and not _is_whole(path, file):
            path.unlink()  # what an earlier transfer left was not the beginning of this blob
            remote.fetch_blob(file.digest, file.size, path)
        if not _is_whole(path, file):
            path.unlink(missing_ok=True)
            raise IntegrityError(f"{remote.url} sent other bytes than those of blob {file.digest}")
        registry.blobs.publish(path, file.digest)


def _is_here(registry: Registry, file: FileEntry) -> bool:
    """Whether the blob is here, undamaged; then it gets a new age, which leaves it to the lease that is held."""
    try:
        registry.blobs.check(file.digest)
    except IntegrityError:
        return False
    return registry.blobs.renew(file.digest)


def _is_whole(path: Path, file: FileEntry) -> bool:
    """Whether the bytes on the disk are the blob's; then they are synced."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as read:
        os.fsync(read.fileno())
        return f"sha256:{hashlib.file_digest(read, 'sha256').hexdigest()}" == file.digest


def _require_space(registry: Registry, size: int) -> None:
    free = shutil.disk_usage(registry.settings.home).free
    if size + DISK_RESERVE > free:
        raise StorageError(registry.settings.home, f"{size} bytes are to be fetched, and {free} are free")
