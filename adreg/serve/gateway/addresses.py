"""Where upstreams listen, as people write it, and the key that opens them. Opens no connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from adreg.errors import UsageError
from adreg.serve.gateway.dialects import Dialect
from adreg.serve.gateway.upstream import Upstream

VARIABLE = "ADREG_UPSTREAM_KEY"
EXAMPLE = "write it as http://10.0.0.7:8000"


def upstreams(urls: Sequence[str], dialect: Dialect, key: str | None) -> list[Upstream]:
    """One for each URL, all asked in one dialect with one key. Raises `UsageError` for a URL that cannot be meant."""
    found = [_plain(url) for url in urls]
    twice = next((url for url in found if found.count(url) > 1), None)
    if twice:
        raise UsageError(f"the upstream {twice} is named twice")
    return [Upstream(url, dialect, key) for url in found]


def upstream_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The secret in `file`, or else in the environment. Raises `UsageError` for what no header can hold."""
    try:
        text = file.read_text(encoding="utf-8") if file else environment.get(VARIABLE, "")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as the key of the upstreams") from error
    key = text.strip()
    if not key and file is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{file or VARIABLE} holds no key: visible ASCII characters without spaces")
    return key


def _plain(url: str) -> str:
    """`url` without what clients put behind it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL: {error}", EXAMPLE) from error
    if "@" in parts.netloc:
        raise UsageError("an upstream's URL holds a user or a password", f"give the key in --upstream-key-file or {VARIABLE}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise UsageError(f"{url!r} is no URL of an upstream", EXAMPLE)
    path = parts.path.rstrip("/").removesuffix("/v1")
    if not url.isascii() or any(character <= " " for character in url):
        raise UsageError(f"{url!r} is no URL of an upstream", EXAMPLE)
    return f"{parts.scheme}://{parts.netloc}{path}"
