"""Hostile files against the whole audit, and the research's own cases: answered in under a second, in little memory.

More of them, and other ones each time: `make fuzz`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from adreg.audit.findings import Severity
from adreg.formats.adapters.expressions import weight_of
from adreg.formats.adapters.values import MAX_WEIGHT
from tests.audit.judging import audit_folder

ROUNDS = int(os.environ.get("ADREG_FUZZ", "1"))
SEED = int(os.environ.get("ADREG_FUZZ_SEED", "1"))
COUNTS = {"headers": 5_000, "configs": 2_000}
VISION = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj)))"
)
USUAL = (
    r".*\.(q_proj|v_proj)",
    r"model\.layers\.(\d+)\.self_attn\.(q|k|v|o)_proj",
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*",
    r"^model.decoder.layers.0.encoder_attn.k_proj",
    VISION,
)
ENDLESS = (
    r"(a+)+$", r"(.*)*x", r"(a|a)*b", r"(a|aa)+$", r"(x+x+)+y", r".*.*.*.*.*.*z", r"(?=(a+)+b)", r"((a?){20}){20}b", "a?" * 30,
    r"(a|ab|b)*c", r"(\w+\s?)*$", r"(a*)(?:\1)*b", "(a|aa)" * 30,
)  # fmt: skip


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.timeout(600)
def test_no_hostile_file_breaks_the_audit_or_is_read_otherwise_than_by_the_library(kind: str):
    for seed in range(SEED, SEED + ROUNDS):
        command = [sys.executable, "-m", "tests.audit.fuzzing", kind, str(seed), str(COUNTS[kind])]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr[-2000:]
        told = json.loads(ran.stdout)
        assert told["count"] == COUNTS[kind] and not told["faults"], "\n".join(told["faults"])
        assert told["peak_kb"] < 512 * 1024 and len(told["rules"]) > 15
        assert told["rules"]["accepted weights"] > 100 and told["rules"]["accepted configurations"] > 100


@pytest.mark.parametrize("expression", USUAL)
def test_expressions_that_people_use_are_light(expression: str):
    assert weight_of(expression) <= MAX_WEIGHT


@pytest.mark.parametrize("expression", ENDLESS)
def test_expressions_that_may_run_for_ever_are_heavy(expression: str):
    assert weight_of(expression) > MAX_WEIGHT


BOMBS: dict[str, dict[str, Any]] = {
    "K-CFG-5 expression": {"target_modules": r"(.*a){12}$", "rank_pattern": {"(a+)+$": 4}},
    "K-CFG-5 thousands of expressions": {"rank_pattern": {f"layers.{number}.*": 4 for number in range(9_000)}},
    "K-CFG-5 thousands of targets": {"target_modules": [f"layers.{number}.*" for number in range(9_000)]},
    "K-CFG-3 rank": {"r": 1_000_000},
    "K-CFG-1 deep": {"loftq_config": json.loads('{"a":' * 900 + "1" + "}" * 900)},
    "K-CFG-4 alpha": {"lora_alpha": 1e30},
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_told_in_under_a_second(clean_set, tmp_path, case: str):
    folder = shutil.copytree(clean_set["llama LoRA"].folder, tmp_path / "bomb")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **BOMBS[case]}))
    began = time.perf_counter()
    report = audit_folder(folder)
    assert time.perf_counter() - began < 1
    if case != "K-CFG-1 deep":
        assert (case.split()[0], Severity.BLOCK) in {(finding.rule, finding.severity) for finding in report.findings}


def test_the_watch_sees_what_adreg_would_unpickle():
    from tests.conftest import UNPICKLED

    code = "import pickle, decimal; pickle.loads(pickle.dumps(decimal.Decimal(1)))"
    exec(code, {"__name__": "adreg.formats.adapters.inspection"})
    assert UNPICKLED
    UNPICKLED.clear()
