"""What a check found: problems, which are damage, and notes, which are not. Knows no check."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from adreg.errors import AdregError, ConflictError

# what reading a record that is not one can raise
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class Problem:
    """Damage. `kind` says of what (seal, database, schema, blob, version, ...), `subject` of which one."""

    kind: str
    subject: str
    message: str
    repaired: bool = False


@dataclass(frozen=True)
class FsckReport:
    """What a check found and how much it looked at. Notes are worth knowing and no damage."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    counts: dict[str, int]

    @property
    def clean(self) -> bool:
        """Whether no damage is left."""
        return all(problem.repaired for problem in self.problems)

    def of(self, *kinds: str) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind in kinds]

    def as_json(self) -> dict[str, Any]:
        return {"clean": self.clean, **asdict(self)}


@dataclass
class Findings:
    """Collects what the checks of one run find."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def problem(self, kind: str, subject: str, message: str) -> None:
        found = Problem(kind, subject, message)
        if found not in self.problems:
            self.problems.append(found)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def require(self, holds: bool, kind: str, subject: str, message: str) -> None:
        if not holds:
            self.problem(kind, subject, message)

    @contextmanager
    def guarded(self, kind: str, subject: str) -> Iterator[None]:
        """Whatever cannot be read inside becomes a problem. A lock and a newer schema are none, and pass through."""
        try:
            yield
        except ConflictError:
            raise
        except (sqlite3.DatabaseError, AdregError, OSError) as error:
            self.problem(kind, subject, str(error))
        except UNREADABLE as error:
            self.problem(kind, subject, f"cannot be read: {type(error).__name__}: {error}"[:300])

    def report(self) -> FsckReport:
        return FsckReport(tuple(self.problems), tuple(self.notes), dict(self.counts))
