"""Whether every blob is there, has its size, opens as what it is, and holds the bytes that its name promises."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adreg.errors import FormatError, IntegrityError
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.adapters.config import survey_adapter_config
from adreg.formats.safetensors import open_safetensors
from adreg.progress import Progress
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.sqlite import Database
from adreg.registry.upkeep.findings import Findings
from adreg.registry.upkeep.layout import leftovers, stored_files, trashed
from adreg.registry.upkeep.reading import StoredBlob

KIND = "blob"
ROWS = (
    "select digest, size, state, verified_at, digest in (select digest from version_file) "
    "or digest in (select sketch from base where sketch is not null) as used from blob order by digest"
)


def read_rows(db: Database) -> list[StoredBlob]:
    """The blobs that the database knows."""
    return [StoredBlob(**{**row, "used": bool(row["used"])}) for row in db.query(ROWS)]


def rows_from_files(home: Path) -> list[StoredBlob]:
    """The blobs as their files tell: for a database that tells nothing."""
    return [StoredBlob(digest, file.size) for digest, file in sorted(stored_files(home).blobs.items())]


def check_files(blobs: BlobStore, rows: Sequence[StoredBlob], found: Findings, progress: Progress) -> list[StoredBlob]:
    """Every row's file must be there with its size: those whose file is."""
    sound = []
    found.counts[KIND] = len(rows)
    with progress.task("blobs", len(rows)) as task:
        for row in rows:
            wrong = wrong_file(blobs, row)
            if not wrong:
                sound.append(row)
            elif row.used:
                found.problem(KIND, row.digest, wrong)
            else:
                found.note(f"blob {row.digest[:19]} {wrong}; nothing needs it")
            task.advance()
    return sound


def wrong_file(blobs: BlobStore, row: StoredBlob) -> str:
    """What is wrong with the file of a blob, as far as its folder entry tells; empty when nothing is."""
    try:
        status = blobs.path(row.digest).lstat()
    except FileNotFoundError:
        return "is quarantined: no good copy was found" if row.state == "quarantined" else "is missing"
    except (OSError, IntegrityError) as error:
        return str(error)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return "" if status.st_size == row.size else f"holds {status.st_size} bytes instead of {row.size}"


def check_formats(db: Database, blobs: BlobStore, sound: Sequence[StoredBlob], found: Findings) -> None:
    """The configurations and weights of versions must open; headers only."""
    query = "select distinct path, digest from version_file where path in (?, ?)"
    whole = {row.digest for row in sound}
    for name, digest in db.execute(query, [CONFIG, WEIGHTS]).fetchall():
        if digest in whole:
            with _damage(digest, found):
                path = blobs.path(digest)
                if name == WEIGHTS:
                    open_safetensors(path)
                elif problems := survey_adapter_config(path).problems:
                    raise problems[0]


def check_bytes(blobs: BlobStore, chosen: Sequence[StoredBlob], found: Findings, progress: Progress) -> list[str]:
    """Hash every byte of `chosen`: the digests of those that are what they should be."""
    good: list[str] = []
    if not chosen:
        return good
    with progress.task("reading", sum(row.size for row in chosen), "B") as task:
        for row in chosen:
            with _damage(row.digest, found):
                blobs.check(row.digest)
                good.append(row.digest)
            task.advance(row.size)
    found.counts["read"] = len(chosen)
    return good


@contextmanager
def _damage(digest: str, found: Findings) -> Iterator[None]:
    try:
        yield
    except FormatError as error:
        found.problem(KIND, digest, error.why)
    except IntegrityError as error:
        found.problem(KIND, digest, "is damaged: its bytes do not hash to it" if "hash to" in str(error) else str(error))
    except OSError as error:
        found.problem(KIND, digest, f"cannot be read: {error.strerror}")


def note_strays(home: Path, rows: Sequence[StoredBlob], found: Findings) -> None:
    """What lies in the registry's folder and belongs to nothing."""
    files, known = stored_files(home), {row.digest for row in rows}
    orphans = [file for digest, file in files.blobs.items() if digest not in known]
    half, trash = leftovers(home), [file for group in trashed(home).values() for file in group]
    told = ((orphans, "blobs that nothing needs"), (half, "half-written files"), (trash, "files in trash/"))
    for group, what in told:
        if group:
            total = sum(file.size for file in group)
            found.note(f"{len(group)} {what} ({total:,} bytes); adreg gc --yes clears them when they are old")
    for path in files.odd:
        found.note(f"{path.relative_to(home)} is no blob")
