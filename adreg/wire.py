"""What both HTTP servers look at in a request, and what they leave unsaid in an answer. Knows no route and no framework."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adreg.errors import AdregError, FormatError, IntegrityError, StorageError

_FOLDERS = re.compile(r"(?<![^\s'\"(])/(?:[^\s/:]+/)*")  # the folders of an absolute path
# a string always matches, closed or not: nothing to go back to, so the time is linear in hostile text
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.?)*"?|([\[{])|([\]}])', re.DOTALL)


def bearer(authorization: str) -> str | None:
    """The secret in an Authorization header, or None where it holds no bearer's secret."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def host_name(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d*$", "", host)


def from_foreign_page(headers: Mapping[str, str]) -> bool:
    """Whether a web page from elsewhere makes a browser ask this; `headers` in lower case."""
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    return foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")


def depth(text: bytes | bytearray) -> int:
    """How deep arrays and objects nest in JSON text, without parsing it."""
    deepest = level = 0
    for found in _BRACKETS.finditer(text):
        level += (found[1] is not None) - (found[2] is not None)
        deepest = max(deepest, level)
    return deepest


def public_message(error: AdregError) -> str:
    """What `error` says, without the server's own paths."""
    match error:
        case StorageError():
            return f"the server cannot store this: {error.why}"
        case FormatError():
            return f"{error.path.name}: {error.why}"
        case IntegrityError():
            return "what the server has stored is damaged; its operator can run adreg fsck"
    return _FOLDERS.sub("", str(error))
