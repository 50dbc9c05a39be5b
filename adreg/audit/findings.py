"""What an audit says: findings with stable ids, the verdict on the base, and the report of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum, IntEnum
from typing import Any


class Severity(IntEnum):
    """How bad it is; `block` refuses push, `err` refuses merge and serve, `warn` and `info` are shown."""

    INFO = 0
    WARN = 1
    ERR = 2
    BLOCK = 3

    @property
    def label(self) -> str:
        return self.name.lower()


class Verdict(Enum):
    """How the base at hand relates to the base that the adapter was trained on."""

    EXACT = "EXACT"
    SAME_VALUES = "SAME-VALUES"
    QUANT_OF = "QUANT-OF"
    SAME_ARCH = "SAME-ARCH"
    DIFFERENT = "DIFFERENT"
    UNKNOWN = "UNKNOWN"

    @property
    def fits(self) -> bool:
        return self in (Verdict.EXACT, Verdict.SAME_VALUES)


@dataclass(frozen=True)
class Finding:
    """One thing that an audit rule saw: what and where, the value seen and the one expected, why it matters and what
    to do. `where` is a module, a tensor, a field, a file or a base."""

    rule: str
    severity: Severity
    message: str
    why: str
    fix: str
    where: str = ""
    seen: str = ""
    expected: str = ""

    @property
    def docs(self) -> str:
        """The rule's page, from the root of the repository."""
        return page_of(self.rule)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity.label, "docs": self.docs}


@dataclass(frozen=True)
class AuditReport:
    """All findings about one adapter, worst first, and the verdict on the base if one was at hand.

    `checked` are the ids of the rules that ran, `skipped` why the others did not, by id; `target` is the engine that it
    was judged for.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    checked: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    target: str = "adreg"

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity >= severity)

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "target": self.target,
            "findings": [finding.as_json() for finding in self.findings],
            "checked": list(self.checked),
            "skipped": dict(self.skipped),
        }


def page_of(rule: str) -> str:
    """Where the page of the rule with this id lies, from the root of the repository."""
    return f"docs/audit/{rule}.md"


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """`findings`, worst first and then by rule."""
    return tuple(sorted(findings, key=lambda finding: (-finding.severity, finding.rule, finding.where)))
