from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from adreg.audit.catalogue import EVERY_RULE
from adreg.audit.findings import AuditReport, Finding, Verdict
from adreg.audit.sarif import to_sarif
from tests.audit.sarif import faults

Log = dict[str, Any]


@pytest.fixture
def log() -> Log:
    """One finding of every rule, some about names that no address can hold as they are, and one of them allowed."""
    places = ("", "model.layers.0.self_attn.q_proj", "a b/ü%:\u202e.md")
    findings = (
        Finding(rule.id, rule.severity, "seen", rule.why, rule.fix, places[number % 3], "one", "another")
        for number, rule in enumerate(EVERY_RULE)
    )
    written: Log = json.loads(to_sarif("team/a b@1", AuditReport(Verdict.EXACT, tuple(findings)), EVERY_RULE, {"K-CFG-8"}))
    return written


def first_result(log: Log) -> Log:
    found: Log = log["runs"][0]["results"][0]
    return found


def test_every_rule_s_finding_has_the_schema_s_structure(log):
    assert faults(log) == []
    assert [result["ruleId"] for result in log["runs"][0]["results"]] == [rule.id for rule in EVERY_RULE]


BROKEN: dict[str, Callable[[Log], Any]] = {
    "version": lambda log: log.update(version="2.0"),
    "no tool": lambda log: log["runs"][0].pop("tool"),
    "no message": lambda log: first_result(log).pop("message"),
    "level": lambda log: first_result(log).update(level="fatal"),
    "unknown property": lambda log: first_result(log).update(severity="err"),
    "index as text": lambda log: first_result(log).update(ruleIndex="0"),
    "another rule": lambda log: first_result(log).update(ruleIndex=1),
    "no address": lambda log: first_result(log)["locations"][0]["physicalLocation"]["artifactLocation"].update(uri="a b"),
    "suppression": lambda log: first_result(log).update(suppressions=[{"kind": "user"}]),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_log_is_noticed(log, change):
    change(log)
    assert faults(log)
