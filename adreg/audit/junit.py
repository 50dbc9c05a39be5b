"""A report as JUnit XML, for build servers: a test case for each rule that ran, skipped ones with their reason."""

from __future__ import annotations

import re
from collections.abc import Collection
from xml.etree.ElementTree import Element, SubElement, tostring

from adreg.audit.findings import AuditReport, Finding, Severity

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(subject: str, report: AuditReport, fail_on: Severity, allowed: Collection[str] = ()) -> str:
    """One suite named after `subject`. A rule fails from `fail_on` on; milder findings, and those that a person allowed,
    are its output."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.rule, []).append(finding)
    ids = sorted({*report.checked, *found})
    failed = [id_ for id_ in ids if id_ not in allowed and any(one.severity >= fail_on for one in found.get(id_, []))]
    counts = {"tests": len(ids) + len(report.skipped), "failures": len(failed), "errors": 0, "skipped": len(report.skipped)}
    attributes = {key: str(value) for key, value in counts.items()}
    suite = Element("testsuite", {"name": _text(f"adreg audit {subject}"), **attributes})
    for id_ in ids:
        case = SubElement(suite, "testcase", classname=f"adreg.audit.{report.target}", name=id_)
        _tell(case, found.get(id_, []), id_ in failed)
    for id_, reason in report.skipped:
        case = SubElement(suite, "testcase", classname=f"adreg.audit.{report.target}", name=id_)
        SubElement(case, "skipped", message=_text(reason))
    suites = Element("testsuites")
    suites.append(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, encoding="unicode")


def _tell(case: Element, findings: list[Finding], failed: bool) -> None:
    if not findings:
        return
    lines = "\n".join(f"{one.severity.label} {one.where} {one.message}: {one.why}. Fix: {one.fix}" for one in findings)
    if failed:
        failure = SubElement(case, "failure", message=_text(findings[0].message), type=findings[0].severity.label)
        failure.text = _text(lines)
    else:
        SubElement(case, "system-out").text = _text(lines)


def _text(value: str) -> str:
    """`value` without the characters that no XML can hold."""
    return NOT_XML.sub("\ufffd", value)
