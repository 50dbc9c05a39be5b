"""Tokens for remotes, by URL, in a file that only its owner can read: never in the database, a URL or a log."""

from __future__ import annotations

import json
import os
from pathlib import Path

from adreg.errors import FormatError, UsageError
from adreg.formats.atomic import atomic_file
from adreg.formats.strictjson import read_object

VARIABLE = "ADREG_TOKEN"
FILE = "tokens.json"
RULE = "S-TOK-1"


def token_for(url: str, home: Path) -> str | None:
    """The token for exactly this URL: `ADREG_TOKEN`, or the one that was kept for it."""
    return os.environ.get(VARIABLE) or _kept(home).get(url.rstrip("/"))


def keep_token(url: str, token: str, home: Path) -> None:
    """Remember `token` for `url`. Raises `UsageError` for what cannot be a token."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("that is no token", "a token is made of visible ASCII characters, without spaces")
    _write(home, {**_kept(home), url.rstrip("/"): token})


def forget_token(url: str, home: Path) -> None:
    """Forget the token for `url`, if there is one."""
    kept = _kept(home)
    if kept.pop(url.rstrip("/"), None) is not None:
        _write(home, kept)


def _kept(home: Path) -> dict[str, str]:
    path = home / FILE
    if not path.exists():
        return {}
    found = read_object(path, RULE)
    if not all(isinstance(token, str) for token in found.values()):
        raise FormatError(path, "is no file of tokens", RULE)
    return found


def _write(home: Path, tokens: dict[str, str]) -> None:
    with atomic_file(home / FILE) as partial:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(tokens, file, indent=2)
