"""A report as SARIF 2.1.0, for code-scanning pages. Source: OASIS sarif-v2.1.0-errata01."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from adreg import __version__
from adreg.audit.findings import AuditReport, Finding, Severity, page_of
from adreg.audit.rule import Rule
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ABOUT_FILES = (
    "F-DIR-2", "F-DIR-3", "F-DIR-4", "S-PKL-2", "S-PATH-1", "S-SEC-1", "S-SIG-1", "S-SIG-2", "S-PRV-1", "S-LIC-1",
)  # fmt: skip
GGUF = "G-"
LEVELS = {Severity.BLOCK: "error", Severity.ERR: "error", Severity.WARN: "warning", Severity.INFO: "note"}


def to_sarif(subject: str, report: AuditReport, rules: Sequence[Rule[Any]], allowed: Collection[str] = ()) -> str:
    """The findings about `subject` (a path or a reference) with the rules behind them; those in `allowed` are marked as
    suppressed, never left out."""
    used = [rule for rule in rules if rule.id in {finding.rule for finding in report.findings}]
    index = {rule.id: place for place, rule in enumerate(used)}
    driver = {"name": "adreg", "version": __version__, "rules": [_rule(rule) for rule in used]}
    results = [_result(subject, finding, index, finding.rule in allowed) for finding in report.findings]
    properties = {"verdict": report.verdict.value, "target": report.target}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results, "properties": properties}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2)


def _rule(rule: Rule[Any]) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}. Fix: {rule.fix}. See {page_of(rule.id)}"},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"severity": rule.severity.label, "cost": rule.cost.value, "docs": page_of(rule.id)},
    }


def _result(subject: str, finding: Finding, index: dict[str, int], allowed: bool) -> dict[str, Any]:
    seen = {key: value for key, value in (("seen", finding.seen), ("expected", finding.expected)) if value}
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(subject, finding)}}}
    if finding.where:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.where}]
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.message}: {finding.why}. Fix: {finding.fix}."},
        "locations": [location],
        "partialFingerprints": {"adreg/v1": f"{finding.rule}:{finding.where}"},
        "properties": {"severity": finding.severity.label, **seen},
    }
    if finding.rule in index:
        result["ruleIndex"] = index[finding.rule]
    if allowed:
        result["suppressions"] = [{"kind": "external", "justification": "allowed by the user with --allow"}]
    return result


def _uri(subject: str, finding: Finding) -> str:
    """The file that the finding is about: a GGUF file itself, or one below the adapter; `quote` because references hold
    ':' and '@'."""
    from urllib.parse import quote

    if finding.rule.startswith(GGUF):
        return quote(subject)
    file = CONFIG if finding.rule.startswith("K-CFG") else WEIGHTS
    return f"{quote(subject)}/{quote(finding.where) if finding.rule in ABOUT_FILES else file}"
