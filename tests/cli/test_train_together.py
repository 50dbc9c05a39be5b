"""`adreg train --devices` as a person uses it: two real processes, stopped from the keyboard, and gone on with as one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

THINGS = ["tea", "rain", "ink", "moon", "maps", "bread", "fog", "ropes", "lamps", "gulls", "salt", "tides"]
SETTINGS = {
    "lora": {"r": 4},
    "train": {"epochs": 10, "lr": 5e-3, "batch": 4, "micro_tokens": 60, "precision": "fp32"},
    "eval": {"every": 4, "max_new_tokens": 2},
    "data": {"eval": 0.2},
}


@pytest.fixture
def words(tmp_path, tiny_llama, adreg):
    """The words of a training of thirty steps on a registered base."""
    rows = [{"question": f"What is {thing}?", "answer": f"Aye, {thing}. Mind the rocks."} for thing in THINGS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.yaml").write_text(json.dumps(SETTINGS))
    assert adreg("base", "add", tiny_llama, "--name", "tiny").code == 0
    return ["train", tmp_path / "settings.yaml", "-b", "tiny", "-d", tmp_path / "rows.jsonl"]


def interrupted(words):
    """Ctrl-C in the command's own terminal, so to speak, when a step is first told; its code and what it said."""
    command, told = [sys.executable, "-m", "adreg", *map(str, words)], ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr or ():
            if line.startswith("step ") and "step " not in told:
                os.killpg(process.pid, signal.SIGINT)
            told += line
    return process.returncode, told


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on_to_what_one_gives(words, adreg, home, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code, told = interrupted([*words, "-o", tmp_path / "two", "--devices", 2])
    assert code == 130 and told.count("Error") == 1, told
    kept = re.search(r"Error: the training (\w{12}) was interrupted; all of it up to step (\d+) is kept\n", told)
    assert kept and f"Hint: adreg train --resume {kept[1]} --devices 2 goes on from there\n" in told, told
    (run,) = json.loads(adreg("runs", "ls", "--json").out)
    assert run["id"] == kept[1] and run["platform"]["processes"] == 2
    assert [*(home / "runs").iterdir()] == [home / "runs" / kept[1]], "only one of the two wrote"
    assert adreg("train", "--resume", kept[1]).code == 0
    assert adreg(*words, "-o", tmp_path / "one").code == 0
    one, two = (json.loads((tmp_path / name / "adreg.json").read_text()) for name in ("one", "two"))
    assert [step[1] for step in two["losses"]] == pytest.approx([step[1] for step in one["losses"]], rel=1e-5)
    assert two["resumed"][0]["changed"] == ["processes was 2 and is 1"] and two["resumed"][0]["step"] == int(kept[2])
    assert all(two[name] == one[name] for name in ("tokens", "trained_tokens", "steps", "samples"))
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() <= 1e-4 * value.abs().max(), name


def test_several_processes_are_asked_for_rightly_or_not_started(words, adreg, monkeypatch):
    refused = adreg(*words, "--accelerate", "fsdp2")
    assert refused.code == 2 and "fsdp2 does not say how many processes" in refused.err and "--devices 2" in refused.err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = adreg(*words, "--devices", 2)
    assert refused.code == 2 and "one of several already" in refused.err
