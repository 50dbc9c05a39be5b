"""Requests to one server: retried while the line breaks, never redirected, answers bounded. Knows HTTP, not registries."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adreg.errors import FormatError, IntegrityError, RemoteError
from adreg.formats.strictjson import JsonObject, parse_object
from adreg.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx2

ANSWER_LIMIT, PIECE = 16 << 20, 1 << 20
TEXT_SHOWN = 300
AGAIN = (408, 429, 502, 503, 504)
TOKEN_HINT = "set ADREG_TOKEN, or give the token once: adreg remote add NAME URL --token-stdin"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long is waited in between: `pause` seconds, then twice that, and so on."""

    attempts: int = 4
    pause: float = 0.25
    connect_seconds: float = 10.0
    silent_seconds: float = 120.0


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Broken(Exception):
    """The line broke, or the server asked to come back later: trying again may help."""


@dataclass(frozen=True)
class HttpSession:
    """A connection to the server at `url`, on behalf of the bearer of `token`, which is sent nowhere else."""

    url: str
    token: str | None
    patience: Patience

    @cached_property
    def client(self) -> httpx2.Client:
        import httpx2

        from adreg import __version__

        timeout = httpx2.Timeout(self.patience.silent_seconds, connect=self.patience.connect_seconds)
        headers = {"User-Agent": f"adreg/{__version__}", "Accept-Encoding": "identity"}
        client = httpx2.Client(
            headers=headers,
            timeout=timeout,
            follow_redirects=False,
            auth=_bearer(self.token),
            trust_env=not is_loopback(httpx2.URL(self.url).host),  # a proxy cannot reach this machine
        )
        weakref.finalize(self, client.close)
        return client

    def ask(self, method: str, path: str, again: bool = True, **options: Any) -> Answer:
        """One request and its whole answer, whatever its status. `again`: a broken line may be tried again."""
        return self.trying(lambda: self.once(method, path, **options), self.patience.attempts if again else 1)

    def trying(self, act: Callable[[], Result], attempts: int | None = None, progress: Callable[[], int] = lambda: 0) -> Result:
        """`act`, again and again while it raises `Broken`. Raises `RemoteError` when patience ends.

        `progress` measures how far it got: patience begins anew whenever that is further than before.
        """
        attempts = attempts or self.patience.attempts
        failed = reached = 0
        while True:
            try:
                return act()
            except Broken as error:
                failed += 1
                if failed == attempts:
                    raise RemoteError(self.url, str(error), "look whether the server runs and can be reached") from error
                time.sleep(self.patience.pause * 2 ** (failed - 1))
                further = progress()
                failed, reached = (1, further) if further > reached else (failed, reached)

    def once(self, method: str, path: str, **options: Any) -> Answer:
        """As `ask`, but raises `Broken` instead of trying again."""
        with self.opened(method, path, **options) as response:
            return self.whole(response)

    def whole(self, response: httpx2.Response) -> Answer:
        """Read an opened answer to its end. Raises `RemoteError` when that is too far."""
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > ANSWER_LIMIT:
                raise RemoteError(self.url, f"its answer is larger than {ANSWER_LIMIT} bytes")
        return Answer(response.status_code, response.headers, bytes(body))

    @contextmanager
    def opened(self, method: str, path: str, **options: Any) -> Iterator[httpx2.Response]:
        """An answer whose body is still to be read, once. Raises `Broken`, or `RemoteError` for a redirect."""
        import httpx2

        try:
            with self.client.stream(method, f"{self.url}{path}", **options) as response:
                if response.is_redirect:
                    place = printable(response.headers.get("location", ""))
                    raise RemoteError(self.url, f"redirects to {place}", "if you trust that place, use its address instead")
                if response.status_code in AGAIN:
                    raise Broken(f"it answers {response.status_code}")
                yield response
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise Broken(f"the connection failed ({printable(str(error)) or type(error).__name__})") from error
        except httpx2.InvalidURL as error:
            raise RemoteError(self.url, f"is no address: {error}") from error

    def json(self, answer: Answer) -> JsonObject:
        """The JSON object of a good answer. Raises what `refuse` does for another."""
        if answer.status >= 300:
            raise self.refusal(answer)
        try:
            return parse_object(answer.body, Path("answer"), "S-MAN-1")
        except FormatError as error:
            raise self.nonsense(error.why) from error

    def refusal(self, answer: Answer) -> RemoteError:
        """An answer other than the one asked for, in the server's words."""
        error = error_of(answer)
        said = printable(str(error.get("message") or "")) or f"it answers {answer.status}"
        hint = TOKEN_HINT if answer.status == 401 else printable(str(error.get("hint") or ""))
        return RemoteError(self.url, said, hint)

    def nonsense(self, why: str) -> RemoteError:
        """An answer that no adreg registry gives."""
        return RemoteError(self.url, f"its answer makes no sense: {printable(why)}", "is that the URL of an adreg registry?")


def _bearer(token: str | None) -> Callable[[httpx2.Request], httpx2.Request]:
    """Sends our token and nothing else: the client's own way would be to look into ~/.netrc."""

    def authorize(request: httpx2.Request) -> httpx2.Request:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def knows_not(answer: Answer) -> bool:
    """Whether an adreg registry says that there is no such thing."""
    return answer.status == 404 and error_of(answer).get("type") == "not_found"


def error_of(answer: Answer) -> JsonObject:
    """The error object of an answer, or an empty one."""
    try:
        error = parse_object(answer.body, Path("answer"), "S-MAN-1").get("error")
    except FormatError:
        return {}
    return error if isinstance(error, dict) else {}


def printable(text: str) -> str:
    """The beginning of a text from outside, without control characters."""
    return "".join(character if character.isprintable() else "�" for character in text[:TEXT_SHOWN])


def pieces_of(path: Path, start: int, size: int) -> Generator[bytes]:
    """The bytes of a file of `size` bytes from `start` on. Raises `IntegrityError` when it is shorter."""
    with path.open("rb") as file:
        file.seek(start)
        while start < size:
            piece = file.read(min(size - start, PIECE))
            if not piece:
                raise IntegrityError(f"{path} has {start} bytes, not {size}")
            start += len(piece)
            yield piece
