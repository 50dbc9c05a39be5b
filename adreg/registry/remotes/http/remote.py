"""Another adreg registry over HTTP, as a `Remote`. Nothing it answers is believed that can be checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from adreg.errors import BadReference, ConflictError, FormatError, IntegrityError, NotFoundError
from adreg.formats.atomic import disk_errors
from adreg.references import check_alias, check_name
from adreg.registry.manifest import Manifest
from adreg.registry.remotes.http.session import Answer, Broken, HttpSession, Patience, error_of, knows_not, pieces_of
from adreg.registry.store.blobs import DIGEST

SOURCE = "remote"
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)
Checked = TypeVar("Checked")


class HttpRemote:
    """The registry served at `url`; `token` is sent to it and to nobody else."""

    def __init__(self, url: str, token: str | None = None, patience: Patience | None = None) -> None:
        self._url, self._token, self._patience = url.rstrip("/"), token, patience or Patience()

    @property
    def url(self) -> str:
        return self._url

    @cached_property
    def _session(self) -> HttpSession:
        return HttpSession(self._url, self._token, self._patience)

    def names(self) -> list[str]:
        """The adapters it holds that the token may read."""
        found = self._session.json(self._session.ask("GET", "/v1/adapters"))
        return self._checked(lambda: sorted({check_name(entry["name"]) for entry in found["adapters"]}))

    def versions(self, name: str) -> list[Manifest]:
        """Every version of `name`, by number; empty when it does not know the name."""
        answer = self._session.ask("GET", f"{_place(name)}/versions")
        if knows_not(answer):
            return []
        entries = self._session.json(answer)
        return self._checked(lambda: _ordered(name, [Manifest.from_json(each, SOURCE) for each in entries["versions"]]))

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → digest of the version that it means."""
        answer = self._session.ask("GET", f"{_place(name)}/aliases")
        if knows_not(answer):
            return {}
        entries = self._session.json(answer)
        return self._checked(lambda: {check_alias(each["alias"]): _digest(each["digest"]) for each in entries["aliases"]})

    def has_blob(self, digest: str) -> bool:
        answer = self._session.ask("HEAD", f"/v1/blobs/{_digest(digest)}")
        if answer.status not in (200, 404):
            raise self._session.refusal(answer)
        return answer.status == 200

    def fetch_blob(self, digest: str, size: int, target: Path) -> None:
        """Append to `target` what it lacks of the `size` bytes; a broken line is gone on with. The caller checks the digest.

        Raises `RemoteError`, `NotFoundError`, or `IntegrityError` when the blob has another size there.
        """
        wanted = _digest(digest)
        with disk_errors(target):
            self._session.trying(lambda: self._fetch_rest(wanted, size, target), progress=lambda: target.stat().st_size)

    def _fetch_rest(self, digest: str, size: int, target: Path) -> None:
        with target.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
                file.seek(0)
            start = file.tell()
            if start == size:
                return
            headers = {"Range": f"bytes={start}-"} if start else {}
            with self._session.opened("GET", f"/v1/blobs/{digest}", headers=headers) as response:
                if response.status_code not in (200, 206):
                    self._refuse_fetch(digest, self._session.whole(response))
                if response.status_code == 200 and start:
                    file.truncate(0)
                    file.seek(0)
                self._check_length(digest, size, file.tell(), Answer(response.status_code, response.headers, b""))
                for piece in response.iter_raw():
                    if file.tell() + len(piece) > size:
                        raise IntegrityError(f"{self.url}: blob {digest} has more than {size} bytes there")
                    file.write(piece)
            if file.tell() != size:
                raise Broken(f"it sent {file.tell()} of {size} bytes")

    def _refuse_fetch(self, digest: str, answer: Answer) -> None:
        if answer.status == 404:
            raise NotFoundError("blob", digest)
        raise self._session.refusal(answer)

    def _check_length(self, digest: str, size: int, start: int, answer: Answer) -> None:
        """What the server is about to send must be the rest of `size` bytes."""
        if answer.status == 206:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if not found or tuple(map(int, found.groups())) != (start, size - 1, size):
                raise self._session.nonsense("another range than the one asked for")
        elif answer.headers.get("content-length", str(size)) != str(size):
            raise IntegrityError(f"{self.url}: blob {digest} has not the {size} bytes there that its manifest says")

    def store_blob(self, digest: str, size: int, source: Path) -> None:
        """Send a blob, from where a broken upload stopped; one that is there already is left."""
        sent = _digest(digest)
        self._session.trying(lambda: self._send_rest(sent, size, source), progress=lambda: self._offset(sent, size))

    def _send_rest(self, digest: str, size: int, source: Path) -> None:
        if self.has_blob(digest):
            return
        start = self._offset(digest, size)
        headers = {"Content-Length": str(size - start), "Content-Type": "application/octet-stream"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        options = {"content": pieces_of(source, start, size), "headers": headers}
        answer = self._session.once("PUT", f"/v1/blobs/{digest}", **options)
        if answer.status in (200, 201):
            return
        kind = error_of(answer).get("type")
        if kind == "wrong_offset" or (kind == "wrong_digest" and start):
            raise Broken("the upload that it goes on with is another one")
        raise self._session.refusal(answer)

    def _offset(self, digest: str, size: int) -> int:
        """How many bytes of a broken upload it kept; one that could not be this blob's is begun again."""
        answer = self._session.ask("HEAD", f"/v1/uploads/{digest}")
        text = answer.headers.get("upload-offset", "0")
        if answer.status != 200 or not re.fullmatch("[0-9]{1,18}", text, re.ASCII):
            return 0
        return int(text) if int(text) < size else 0

    def add_version(self, manifest: Manifest) -> int:
        """Make it the next version of its name there: its number. Raises `ConflictError` while a blob of it is missing."""
        answer = self._session.ask("POST", f"{_place(manifest.name)}/versions", json=manifest.as_json())
        if answer.status == 409:
            raise self._conflict(answer)
        found = self._session.json(answer)
        if found.get("digest") != manifest.digest or type(found.get("number")) is not int:
            raise self._session.nonsense("it confirms another version than the one sent")
        return int(found["number"])

    def set_alias(self, name: str, alias: str, digest: str, expect: str | None) -> None:
        """Make `alias` mean the version `digest`. `ConflictError` unless it means `expect` now (None: it is not there)."""
        condition = {"If-None-Match": "*"} if expect is None else {"If-Match": f'"{_digest(expect)}"'}
        place = f"{_place(name)}/aliases/{check_alias(alias)}"
        # never twice: when the line breaks behind it, nobody knows whether the alias moved
        answer = self._session.ask("PUT", place, again=False, json={"digest": _digest(digest)}, headers=condition)
        if answer.status in (409, 412):
            raise self._conflict(answer)
        self._session.json(answer)

    def _conflict(self, answer: Answer) -> ConflictError:
        refusal = self._session.refusal(answer)
        return ConflictError(str(refusal), refusal.hint)

    def _checked(self, read: Callable[[], Checked]) -> Checked:
        """What `read` makes of an answer; anything odd in it is the server's fault."""
        try:
            return read()
        except (BadReference, FormatError, IntegrityError) as error:
            raise self._session.nonsense(str(error)) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._session.nonsense(f"{type(error).__name__} {error}") from error


def _place(name: str) -> str:
    namespace, slash, rest = check_name(name).partition("/")
    return f"/v1/adapters/{namespace}/{rest}" if slash else f"/v1/adapters/_/{namespace}"


def _ordered(name: str, found: list[Manifest]) -> list[Manifest]:
    ordered = sorted(found, key=lambda manifest: manifest.number)
    odd = any(manifest.name != name for manifest in ordered)
    if odd or len({manifest.number for manifest in ordered}) < len(ordered):
        raise ValueError(f"it lists versions of {name} that are not, or numbers twice")
    return ordered


def _digest(text: object) -> str:
    if not isinstance(text, str) or not DIGEST.fullmatch(text):
        raise IntegrityError(f"{str(text)[:80]!r} is no SHA-256 digest")
    return text
