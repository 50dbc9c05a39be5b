"""References: `name`, `ns/name`, `name:3`, `name:prod`, `name@sha256:<12+ hex>`. Knows text, not the registry."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adreg.errors import BadReference, UsageError

_PART = r"[a-z0-9][a-z0-9._-]{0,95}"
_NAME = re.compile(rf"{_PART}(/{_PART})?", re.ASCII)
_ALIAS = re.compile(_PART, re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{12,64}", re.ASCII)
_NAME_RULE = "names are lower-case letters, digits, '.', '_' and '-', start with a letter or digit, and hold at most one '/'"


@dataclass(frozen=True)
class Reference:
    """A parsed reference; at most one of `version`, `alias` and `digest` is set."""

    name: str
    version: int | None = None
    alias: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.digest:
            return f"{self.name}@{self.digest}"
        suffix = self.version or self.alias
        return f"{self.name}:{suffix}" if suffix else self.name


def parse_reference(text: str) -> Reference:
    """Parse `text`; raise `BadReference` naming the rule it breaks."""
    name, at, digest = text.partition("@")
    if at:
        if not _DIGEST.fullmatch(digest):
            raise BadReference(text, "after '@' comes sha256: and at least 12 hex digits")
        return Reference(check_name(name, text), digest=digest)
    name, colon, tag = text.partition(":")
    check_name(name, text)
    if not colon:
        return Reference(name)
    if tag.isascii() and tag.isdigit():
        if tag.startswith("0") or len(tag) > 9:
            raise BadReference(text, "versions count from 1, without leading zeros")
        return Reference(name, version=int(tag))
    return Reference(name, alias=check_alias(tag, text))


def folder_name(name: str, digest: str) -> str:
    """The version `digest` (`sha256:<64 hex>`) of `name` where `/` and `@` mean other things: `ns:name:<12 hex>`, for ever.

    No two names give the same, as no name holds a colon.
    """
    return f"{name.replace('/', ':')}:{digest.removeprefix('sha256:')[:12]}"


def check_name(name: str, text: str | None = None) -> str:
    """`name` itself when it is a valid adapter or base name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadReference(text if text is not None else name, _NAME_RULE)
    return name


def check_alias(alias: str, text: str | None = None) -> str:
    """`alias` itself when it is a valid alias: a name part that is not a bare number."""
    if not _ALIAS.fullmatch(alias) or alias.isdigit() or ".." in alias:
        raise BadReference(text if text is not None else alias, "an alias is a lower-case name and never a bare number")
    return alias


def check_tag(tag: str) -> str:
    """`tag` itself when it is a word as aliases are, or key=value of two such words; a value may be a number."""
    key, equals, value = tag.partition("=")
    if not _ALIAS.fullmatch(key) or key.isdigit() or ".." in tag or (equals and not _ALIAS.fullmatch(value)):
        raise UsageError(f"{tag!r} is no tag", "a tag is a lower-case word that is no number, or key=value")
    return tag
