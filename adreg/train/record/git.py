"""The state of the git repository around a folder: its commit, and whether files differ from it. Runs nothing of its own.

Only plumbing that reads is called, with everything switched off through which a repository's configuration could start
programs: hooks, the file system monitor, lazy fetches. Filters never run, because contents are compared here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

DISARMED = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks", "--no-pager")
SECONDS = 5.0
UNKNOWN: dict[str, Any] = {"commit": None, "dirty": None}


def git_state(folder: Path) -> dict[str, Any]:
    """`commit` and `dirty`: both None outside of a repository; `dirty` alone where git is not installed.

    Files that git does not track do not make a folder dirty.
    """
    top = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)
    if top is None:
        return UNKNOWN
    if shutil.which("git") is None:
        return {"commit": _head(top), "dirty": None}
    commit = _git(top, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return {"commit": _head(top), "dirty": None}
    return {"commit": commit.strip(), "dirty": _dirty(top)}


def _dirty(top: Path) -> bool | None:
    listed = _git(top, "diff-index", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=all", "HEAD")
    if listed is None:
        return None
    fields = listed.split("\0")
    return any(_differs(top, entry, name) for entry, name in zip(fields[::2], fields[1::2], strict=False))


def _differs(top: Path, entry: str, name: str) -> bool:
    """Whether a path that git suspects is another than the one committed: its dates may be all that changed."""
    mode_before, mode_now, before, now, _ = entry.split(" ")
    if now.strip("0") or mode_before[1:] != mode_now:
        return True
    try:
        content = os.fsencode((top / name).readlink()) if mode_now == "120000" else (top / name).read_bytes()
    except OSError:
        return True
    digest = hashlib.sha1 if len(before) == 40 else hashlib.sha256
    return digest(b"blob %d\0" % len(content) + content).hexdigest() != before


def _git(top: Path, *words: str) -> str | None:
    """What git says; None where it fails or takes long."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *DISARMED, *words],
            cwd=top,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _head(top: Path) -> str | None:
    """The commit that HEAD names, read from the files of the repository."""
    folder = _git_folder(top)
    try:
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head or None
        name, common = head.removeprefix("ref: "), _common(folder)
        if (common / name).is_file():
            return (common / name).read_text(encoding="utf-8").strip()
        packed = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.partition(" ")[0] for line in packed if line.endswith(f" {name}")), None)


def _git_folder(top: Path) -> Path:
    """Where the repository's files are: a worktree's `.git` is a file that says so."""
    marker = top / ".git"
    if marker.is_dir():
        return marker
    try:
        return top / marker.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
    except (OSError, UnicodeDecodeError):
        return marker


def _common(folder: Path) -> Path:
    """What all worktrees of a repository share."""
    try:
        return folder / (folder / "commondir").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return folder
