"""What an audit says: findings with stable ids, and the verdict on the base."""

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
    """One thing that an audit rule saw: what, where, why it matters and what to do."""

    rule: str
    severity: Severity
    message: str
    why: str
    fix: str
    where: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity.label}


@dataclass(frozen=True)
class AuditReport:
    """All findings about one adapter, worst first, and the verdict if a base was at hand."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity:
        return max((finding.severity for finding in self.findings), default=Severity.INFO)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity >= severity)

    def as_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict.value, "findings": [finding.as_json() for finding in self.findings]}


def report(verdict: Verdict, findings: Iterable[Finding]) -> AuditReport:
    """`findings`, worst first and then by rule."""
    ordered = sorted(findings, key=lambda finding: (-finding.severity, finding.rule, finding.where))
    return AuditReport(verdict, tuple(ordered))
