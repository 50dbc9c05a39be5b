"""The hub as adreg asks it: which files a commit holds, and each of them with its bytes checked.

Goes through huggingface_hub, but not through its cache, which trusts what it finds. Refuses to know adapters.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from adreg.errors import IntegrityError, RemoteError, UsageError
from adreg.progress import Task
from adreg.registry.hub.checksums import Checksum, digests_of
from adreg.registry.hub.errors import hub_errors
from adreg.registry.hub.reference import HubReference, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT = 30.0
ATTEMPTS = 3
NAME_SHOWN = 120


@dataclass(frozen=True)
class Listing:
    """A commit, its files of known names at the top level, and the names of everything else (hostile text)."""

    commit: str
    files: dict[str, Checksum]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Hub:
    """Which hub, and as whom. Without a token the user's saved one is used, but only on the hub it was saved for."""

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.endpoint is not None and not re.match(r"https?://[^/\s]+", self.endpoint):
            raise UsageError(f"{self.endpoint!r} is no address of a hub", "give it as https://host")

    def api(self) -> HfApi:
        """huggingface_hub's client for this hub."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self._credential, library_name="adreg")

    @property
    def _credential(self) -> str | bool | None:
        """None lets the client take the saved token; False forbids it."""
        return self.token or (None if self.endpoint is None else False)

    def list(self, reference: HubReference, names: tuple[str, ...]) -> Listing:
        """What the commit that `reference` means now holds of `names`. Raises `RemoteError`, `NotFoundError`."""
        with hub_errors(reference):
            info = self.api().model_info(reference.repo, revision=reference.revision, files_metadata=True, timeout=TIMEOUT)
            siblings = [(each.rfilename, each.size, each.lfs and each.lfs.sha256, each.blob_id) for each in info.siblings or ()]
        if not isinstance(info.sha, str) or not is_commit(info.sha):
            raise RemoteError(str(reference), "names no commit")
        if reference.pinned and info.sha != reference.revision:
            raise IntegrityError(f"{reference} answers with another commit, {info.sha}")
        others = tuple(str(name)[:NAME_SHOWN] for name, *_ in siblings if name not in names)
        files: dict[str, Checksum] = {}
        for name, size, sha256, git_sha1 in siblings:
            if name in names:
                if name in files:
                    raise IntegrityError(f"{reference} lists {name} twice")
                files[name] = _checksum(f"{reference} {name}", size, sha256, git_sha1)
        return Listing(info.sha, files, others)

    def download(self, reference: HubReference, name: str, expected: Checksum, target: Path, task: Task) -> None:
        """Write the file `name` of a pinned `reference` to `target`, which must not exist, and check its bytes.

        Raises `IntegrityError` when they are not the listed ones, `RemoteError` when they do not come.
        """
        with target.open("xb") as out, hub_errors(reference):
            for attempt in range(ATTEMPTS):
                try:
                    self._stream(reference, name, expected.size, out, task)
                    break
                except _transport_error():
                    if attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(0.3 * 2**attempt)
        if not expected.fits(digests_of(target)):
            raise IntegrityError(f"{reference}: the bytes of {name} are not the ones the hub lists")

    def _stream(self, reference: HubReference, name: str, size: int, out: BinaryIO, task: Task) -> None:
        """Append what is missing of the file to `out`: `size` bytes at most, whatever the server sends."""
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but a lazy export

        url = hf_hub_url(reference.repo, name, revision=reference.revision, endpoint=self.endpoint)
        headers = {**build_hf_headers(token=self._credential, library_name="adreg"), "Accept-Encoding": "identity"}
        if out.tell():
            headers["Range"] = f"bytes={out.tell()}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                out.seek(0)
                out.truncate()
            for piece in response.iter_raw():  # as it comes: a chunk size would lose the last one when the line breaks
                if out.tell() + len(piece) > size:
                    raise IntegrityError(f"{reference}: {name} is longer than the {size} bytes the hub lists")
                out.write(piece)
                task.advance(len(piece), name)


def _checksum(what: str, size: Any, sha256: Any, git_sha1: Any) -> Checksum:
    """What the listing says of one file, refused where it says nothing that could be checked."""
    if type(size) is not int or size < 0:
        raise IntegrityError(f"{what}: the hub lists no size for it")
    if isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256):
        return Checksum(size, sha256, None)
    if sha256 is None and isinstance(git_sha1, str) and is_commit(git_sha1):
        return Checksum(size, None, git_sha1)
    raise IntegrityError(f"{what}: the hub lists no checksum for it")


def _transport_error() -> type[Exception]:
    import httpx2

    return httpx2.TransportError
