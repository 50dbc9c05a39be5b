"""F-MUT: whether the weights file is still the one that the other rules have read. The catalogue's last rule, therefore."""

from __future__ import annotations

import os
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import WEIGHTS


@rule(
    "F-MUT-1",
    "a file that changed while it was being read",
    Severity.BLOCK,
    Cost.TENSORS,
    why="what was found holds for none of its states",
    fix="wait until it is written, and try again",
)
def changed_meanwhile(subject: Subject) -> Iterator[Seen]:
    file = subject.inspection.file
    if file is None:
        return
    try:
        found = _state(file.path.stat())
    except FileNotFoundError:
        found = ()
    if found != _state(file.status):
        yield Seen("changed while it was being read", WEIGHTS, seen="another state of the file", expected="the one opened")


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another. Not its ctime: a store's hard links change that."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
