"""References into the Hugging Face Hub: `hf:org/name[@revision]`. Knows text, not the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adreg.errors import UsageError

PREFIX = "hf:"
DEFAULT_BRANCH = "main"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9_])?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_HINT = "a hub reference is hf:org/name or hf:org/name@revision; revision is a branch, a tag or a commit"


@dataclass(frozen=True)
class HubReference:
    """A repository of models on the hub, and a branch, a tag or a commit of it (None: the main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def pinned(self) -> bool:
        """Whether it names a commit, which never moves."""
        return self.revision is not None and is_commit(self.revision)


def parse_hub_reference(text: str) -> HubReference:
    """Parse `hf:org/name[@revision]` by the hub's own rules for names. Raises `UsageError` naming the broken one."""
    if not text.startswith(PREFIX):
        raise UsageError(f"{text!r} is no hub reference: it does not start with {PREFIX}", _HINT)
    repo, at, revision = text.removeprefix(PREFIX).partition("@")
    if not is_repo(repo):
        raise UsageError(f"{text!r} is no hub reference: {repo!r} cannot name a repository", _HINT)
    if at and not _is_revision(revision):
        raise UsageError(f"{text!r} is no hub reference: {revision!r} cannot name a revision", _HINT)
    return HubReference(repo, revision or None)


def is_repo(text: str) -> bool:
    """Whether `text` can name a repository: at most 96 letters, digits, `.`, `_`, `-` a part, and at most one slash."""
    parts = text.split("/")
    if len(parts) > 2 or "--" in text or ".." in text or text.endswith(".git"):
        return False
    return all(_PART.fullmatch(part) for part in parts)


def is_commit(text: str) -> bool:
    """Whether `text` is a whole commit id: 40 lower-case hex digits."""
    return _COMMIT.fullmatch(text) is not None


def _is_revision(text: str) -> bool:
    """A git reference name without its odder liberties."""
    return _REVISION.fullmatch(text) is not None and not any(odd in text for odd in ("..", "//", "/.", "./"))
