"""The audit's own promises: every fault of a broken file is told, rules are unique, outputs keep the suppressed."""

import json
import shutil
from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.audit.catalogue import BY_ID, RULES
from adreg.audit.findings import Severity
from adreg.audit.junit import to_junit
from adreg.audit.pages import pages
from adreg.audit.policy import decide, require
from adreg.audit.rule import Cost
from adreg.audit.run import Speed, judge
from adreg.audit.sarif import to_sarif
from adreg.audit.subject import Subject
from adreg.errors import AuditRefused, UsageError
from adreg.formats.adapters.inspection import inspect_folder
from tests.audit.judging import audit_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(llama_adapter, tmp_path):
    named = {"base_model_name_or_path": "example/tiny-llama", "revision": "0" * 40}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/adreg.json").write_text(json.dumps({"parents": [{"reference": "one:1"}]}))
    return configure(shutil.copytree(llama_adapter, tmp_path / "copy", dirs_exist_ok=True), **named)


def configure(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def ids(report):
    return {finding.rule for finding in report.findings}


def test_every_fault_of_both_files_is_told_at_once(copy):
    configure(copy, r=0, lora_alpha=-1, rank_pattern={"(a+)+$": 0}, alpha_pattern={"q": -2})
    path = copy / "adapter_model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    first, second = [entry for name, entry in header.items() if name != "__metadata__"][:2]
    first["shape"], second["extra"] = [1, 2, 3], 1
    header["model.norm.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    report = audit_folder(copy)
    assert {"K-CFG-3", "K-CFG-4", "K-CFG-5", "F-OFF-2", "F-HDR-4", "K-KEY-1"} <= ids(report)
    assert sum(finding.rule == "K-CFG-3" for finding in report.findings) == 2
    assert all(
        reason == "the weights file is broken"
        for id_, reason in report.skipped
        if BY_ID[id_].cost in (Cost.TENSORS, Cost.SPECTRA)
    )


def test_an_empty_folder_is_findings_and_no_exception(tmp_path):
    report = audit_folder(tmp_path)
    assert [finding.rule for finding in report.findings] == ["F-DIR-1", "F-DIR-1"]


def test_headers_only_runs_no_rule_that_reads_tensors(copy):
    path = copy / "adapter_model.safetensors"
    save_file({name: value * np.float32("nan") for name, value in load_file(path).items()}, path)
    fast, full = (judge(Subject(inspect_folder(copy)), speed) for speed in (Speed.HEADER, Speed.FULL))
    assert ids(fast) == set() and ids(full) == {"Q-NAN-1"}
    assert all(BY_ID[id_].cost is Cost.HEADER for id_ in fast.checked)
    assert {*fast.checked, *dict(fast.skipped)} == {*full.checked, *dict(full.skipped)} == set(BY_ID)


def test_rules_are_complete_and_unique():
    assert len(BY_ID) == len(RULES)
    for rule in RULES:
        assert rule.title and rule.why and rule.fix and not rule.why.endswith(".") and not rule.fix.endswith("."), rule.id
        assert not rule.needs_corpus or rule.severity is Severity.INFO, rule.id


def test_pages_are_current():
    there = {path.name: path.read_text() for path in (ROOT / "docs/audit").glob("*.md")}
    assert there == pages(), "run `make docs`"


def test_an_allowed_error_passes_and_is_told_but_a_block_is_not(copy):
    report = audit_folder(configure(copy, use_qalora=True))
    decision = require("merge", "copy", report, allow=["K-CFG-8"])
    assert decision.event and decision.event["rules"] == ["K-CFG-8"] and decision.event["operation"] == "merge"
    with pytest.raises(AuditRefused):
        require("serve", "copy", report)
    configure(copy, lora_alpha=0)
    assert decide("merge", audit_folder(copy), allow=["K-CFG-4"]).refused
    with pytest.raises(UsageError, match="X-NO-1"):
        decide("merge", report, allow=["X-NO-1"])


def test_outputs_keep_what_was_allowed(copy):
    report = judge(Subject(inspect_folder(configure(copy, use_qalora=True))), Speed.FULL)
    run = json.loads(to_sarif("a b:1", report, RULES, {"K-CFG-8"}))["runs"][0]
    (result,) = run["results"]
    assert result["suppressions"] and run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "K-CFG-8"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b%3A1/adapter_config.json"
    failing = fromstring(to_junit("a\x00b", report, Severity.ERR))[0]
    assert failing.get("failures") == "1" and failing.get("skipped") == str(len(report.skipped)) != "0"
    allowed = fromstring(to_junit("a", report, Severity.ERR, {"K-CFG-8"}))[0]
    assert allowed.get("failures") == "0" and "use_qalora" in (allowed.findtext(".//system-out") or "")


def test_other_spellings_are_named(copy):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    renamed = {
        f"lora_unet_{name.split('.lora_')[0].replace('.', '_')}.lora_{'down' if 'lora_A' in name else 'up'}.weight": value
        for name, value in tensors.items()
    }
    save_file(renamed, path)
    (finding,) = (one for one in audit_folder(copy).findings if one.rule == "K-KEY-5")
    assert finding.seen == "kohya"
