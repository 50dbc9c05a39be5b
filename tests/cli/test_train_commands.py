"""`adreg train`, `runs` and `reproduce` as a person uses them, on a tiny real model, all in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import pytest

from adreg.cli.app import main
from adreg.cli.common import registry
from adreg.cli.trainview import Pulse, moving_line
from adreg.registry.runjournal import read_journal

THINGS = ["tea", "rain", "ink", "moon", "maps", "bread", "fog", "ropes", "lamps", "gulls", "salt", "tides"]
ROWS = [{"question": f"What is {thing}?", "answer": f"Aye, {thing}. Mind the rocks."} for thing in THINGS]
QUICK = ["--set", "train.batch=4", "--set", "train.precision=fp32", "--set", "eval.max_new_tokens=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_llama, data):
    """A registry folder with a base and a finished run of six steps, pushed as voice:dev; made once, copied for each test."""
    home, work = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("work")
    told = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(told):
        patch.setenv("ADREG_HOME", str(home))
        patch.setenv("NO_COLOR", "1")
        for words in (
            ["base", "add", tiny_llama, "--name", "tiny"],
            ["train", "-b", "tiny", "-d", data, "--max-steps", 6, *QUICK, "-o", work / "out", "--push", "voice:dev"],
        ):
            patch.setattr(sys, "argv", ["adreg", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code, told.getvalue()
    return home, work / "out", told.getvalue()


@pytest.fixture
def lived_in(trained, home):
    """This test's registry, with the run in it."""
    shutil.copytree(trained[0], home, dirs_exist_ok=True)
    return trained[1]


def test_the_training_tells_losses_answers_and_what_to_do_next(trained):
    told = trained[2]
    assert re.search(r"✓ trained .*out in \d+ s, held-out loss \d+\.\d+ → \d+\.\d+, pushed voice:1 \(\w{12}\)", told)
    assert "step 6/6  loss " in told and " tok/s" in told and "perplexity" in told
    assert "  base     " in told and "  adapter  " in told and "adreg chat voice:1" in told


def test_the_folder_tells_the_run_without_paths_of_this_machine(trained, data):
    record = json.loads((trained[1] / "adreg.json").read_text())
    assert record["outcome"] == "finished" and len(record["losses"]) == 6 and record["config_id"].startswith("sha256:")
    assert record["data"][0]["path"] == data.name and record["config"]["data"]["train"][0]["path"] == data.name
    assert record["weights"].startswith("sha256:") and record["versions"]["torch"] and record["samples"][0][2] is not None
    for name in ("adreg.json", "adapter_config.json", "README.md"):
        text = (trained[1] / name).read_text()
        assert str(data.parent) not in text and str(trained[1].parent) not in text and '"pid"' not in text


def test_runs_are_listed_shown_and_plotted(lived_in, adreg, tmp_path):
    (run,) = json.loads(adreg("runs", "ls", "--json").out)
    assert run["outcome"] == "finished" and run["last"][0] == 6 and "losses" not in run
    assert adreg("runs", "ls", "-q").out == f"{run['id']}\n"
    assert adreg("runs", "ls", "--outcome", "lost", "-q").out == ""
    shown = adreg("runs", "show", run["id"][:6])
    assert "held-out loss" in shown.out and "6, " in shown.out and "▁" in shown.out and "adapter" in shown.out
    assert len(json.loads(adreg("runs", "show", "last", "--json").out)["losses"]) == 6
    plotted = adreg("runs", "plot", "-o", tmp_path / "loss.svg", "-o", tmp_path / "loss.png")
    assert plotted.code == 0 and "●" in plotted.out and "└" in plotted.out
    assert (tmp_path / "loss.svg").read_text().startswith("<svg") and (tmp_path / "loss.png").stat().st_size > 5000
    points = json.loads(adreg("runs", "plot", "last", "--json").out)
    assert [point[0] for point in points[0]["raw"]] == [1, 2, 3, 4, 5, 6]
    refused = adreg("runs", "plot", "-o", tmp_path / "loss.pdf")
    assert refused.code == 2 and "loss.svg or loss.png" in refused.err


def test_two_runs_are_compared_field_by_field_and_told_apart_in_a_plot(lived_in, adreg):
    found = registry().runs
    record = found.get("last")
    other = {**record, "id": "0000aaaa0000", "started": "2026-01-01T00:00:00+00:00"}
    other["config"] = {**record["config"], "train": {**record["config"]["train"], "lr": 0.5}}
    other["data"] = [{**record["data"][0], "sha256": "0" * 64}]
    other["base"] = {**record["base"], "weights_id": "b3:" + "1" * 64}
    other["versions"] = {**record["versions"], "torch": "1.0"}
    found.add(other)
    told = json.loads(adreg("runs", "diff", "0000", record["id"], "--json").out)
    assert told["settings"] == {"train.lr": {"a": 0.5, "b": record["config"]["train"]["lr"]}}
    assert set(told) == {"a", "b", "settings", "data", "base", "environment", "outcome"}
    assert told["environment"]["torch"]["a"] == "1.0" and set(told["base"]) == {"base.weights_id"}
    shown = adreg("runs", "diff", "0000", "last").out
    assert "train.lr" in shown and "held-out after" in shown
    both = adreg("runs", "plot", "0000", record["id"]).out
    assert "lr 0.5" in both and "  A run 0000aaaa0000" in both and "  B run" in both


def test_a_run_killed_after_its_adapter_was_written_is_finished_all_the_same(lived_in, adreg, tmp_path):
    found, out = registry().runs, tmp_path / "out"
    shutil.copytree(lived_in, out)
    record = found.get("last")
    open_ended = {name: value for name, value in record.items() if name not in ("losses", "evaluations", "weights", "eval")}
    told = json.loads((out / "adreg.json").read_text())
    for id_, place in (("0000bbbb0000", out), ("0000cccc0000", tmp_path / "spoilt"), ("0000dddd0000", lived_in)):
        changes = {"id": id_, "outcome": "running", "started": "2026-01-01T00:00:00+00:00"}
        found.add({**open_ended, **changes, "process": {**record["process"], "output": str(place)}})
        (found.folder(id_) / "checkpoint-5").mkdir(parents=True)
    (out / "adreg.json").write_text(json.dumps({**told, "id": "0000bbbb0000"}))
    shutil.copytree(out, tmp_path / "spoilt")
    (tmp_path / "spoilt" / "adreg.json").write_text(json.dumps({**told, "id": "0000cccc0000", "weights": "sha256:0"}))
    assert adreg("runs", "ls", "--outcome", "lost", "-q").out.split() == ["0000dddd0000", "0000cccc0000"]
    mended = found.get("0000bbbb0000")
    assert mended["outcome"] == "finished" and mended["losses"] == record["losses"] and mended["eval"] == record["eval"]
    assert mended["data"] == record["data"] and mended["weights"] == record["weights"]
    assert not found.folder("0000bbbb0000").exists() and found.folder("0000cccc0000").exists()


def test_a_run_that_made_a_version_stays_and_another_goes(lived_in, adreg):
    found = registry().runs
    found.add({**found.get("last"), "id": "0000bbbb0000"})
    assert adreg("runs", "rm", "0000bbbb0000").code == 2
    assert adreg("runs", "rm", "0000bbbb0000", "--yes").code == 0
    kept = adreg("runs", "rm", "last", "--yes")
    assert kept.code == 4 and "1 stored version" in kept.err
    assert adreg("runs", "show", "0000bbbb").code == 3


def test_a_run_is_reproduced_byte_for_byte_wherever_its_data_lies_now(lived_in, adreg, data, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed.jsonl"
    moved.parent.mkdir()
    record = registry().runs.get("last")
    gone = {**record, "data": [{**record["data"][0], "path": "/gone/rows.jsonl"}]}
    gone["config"]["data"]["train"][0]["path"] = "/gone/rows.jsonl"
    registry().runs.add(gone)
    lost = adreg("reproduce", "last")
    assert lost.code == 3 and "/gone/rows.jsonl" in lost.err
    moved.write_text(data.read_text().replace("tea", "TEA"))
    other = adreg("reproduce", "last", "--data", moved)
    assert other.code == 4 and "SHA-256" in other.err
    shutil.copy(data, moved)
    again = adreg("reproduce", "last", "--data", moved, "--json")
    assert again.code == 0, again.err
    told = json.loads(again.out)
    assert told["same"] and told["same_weights"] and told["steps"] == 6 and told["first"] is None


def test_what_cannot_be_the_same_is_refused_by_name(lived_in, adreg, tiny_gpt2):
    record = registry().runs.get("last")
    assert adreg("base", "add", tiny_gpt2, "--name", "other").code == 0
    other = adreg("reproduce", "last", "--base", "other")
    assert other.code == 4 and "other is not the base of that run: " in other.err and "weights_id" in other.err
    registry().runs.add({**record, "outcome": "interrupted"})
    ended = adreg("reproduce", "last")
    assert ended.code == 4 and "is interrupted" in ended.err


def test_a_plan_counts_tokens_steps_and_memory_and_trains_nothing(lived_in, adreg, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "-b", "tiny", "-d", data, "--dry-run", *QUICK]
    plan = json.loads(adreg(*words, "--no-probe", "--json").out)
    assert plan["trainable"] == 17920 and plan["rows"] == 11 and plan["held_out"] == 1 and plan["steps"] == 9
    assert plan["probe"] is None and plan["seconds"] is None and plan["needed"] == sum(plan["memory"].values())
    assert 0 < plan["learned_share"] < 1 and plan["all_tokens"] == 3 * plan["tokens"]
    odd = adreg(*words, "--set", "lora.dropout=0.5", "--set", "train.lr=0.3", "--set", "lora.alpha=800", "--set", "data.eval=0")
    assert odd.code == 0
    for part in ("lora.dropout 0.5", "train.lr 0.3 is high", "alpha/r is 100", "no rows are held out", "11 rows are few"):
        assert part not in odd.out and part.replace("11", "12") in odd.err
    assert "tokens/s" in odd.out and "about" in odd.out
    assert list(tmp_path.iterdir()) == [] and len(registry().runs.all()) == 1


def test_interrupted_it_prints_how_to_go_on_and_goes_on_by_itself(lived_in, home, adreg, data, tmp_path):
    words = ["train", "-b", "tiny", "-d", data, "--set", "train.epochs=40", *QUICK, "-o", tmp_path / "out", "--push", "voice"]
    with interrupting(home):
        stopped = adreg(*words)
    assert stopped.code == 130 and not (tmp_path / "out").exists()
    run = registry().runs.all()[0]
    assert run["outcome"] == "interrupted" and f"adreg train --resume {run['id']}" in stopped.err
    assert adreg("train", "--resume", "--recipe", "demo").code == 2
    changed = adreg("train", "--resume", "--set", "train.lr=0.01")
    assert changed.code == 4 and "train.lr" in changed.err and "--force" in changed.err
    done = adreg("train", "--resume", "--max-steps", run["last"][0] + 2, "--force", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["id"] == run["id"] and record["version"] == "voice:2" and record["resumed"][-1]["changed"]
    assert [step[0] for step in record["losses"]] == list(range(1, run["last"][0] + 3))
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert adreg("train", "--resume").code == 2


@contextmanager
def interrupting(home):
    """Sends SIGINT to this process once a training has done two steps."""

    def watch():
        while not any(len(read_journal(path).losses) > 1 for path in home.glob("runs/*/metrics.jsonl")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    watcher.join()


def test_mistakes_are_named_before_anything_is_loaded_or_recorded(lived_in, adreg, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, code, told in (
        (["-d", data], 2, "which base?"),
        (["-d", data, "-b", "tiny", "--map", "answer"], 2, "--map"),
        (["-b", "tiny"], 2, "no training data"),
        (["-b", "tiny", "-d", "gone.jsonl"], 3, "gone.jsonl"),
        (["--recipe", "qwen-emoji", "-d", data], 2, "Qwen/Qwen2.5-0.5B-Instruct is not here"),
        (["-b", "tiny", "-d", data, "--method", "magic"], 2, "method"),
        (["-b", "tiny", "-d", data, "--parent", "nobody"], 3, "nobody"),
        (["-b", "tiny", "-d", data, "--push", "voice:3"], 2, "versions are numbered"),
        (["--resume", "nothing"], 3, "nothing"),
    ):
        result = adreg("train", *words)
        assert result.code == code and told in result.err, (words, result)
    assert len(registry().runs.all()) == 1 and list(tmp_path.iterdir()) == []


def test_a_continued_training_records_its_parent_and_refuses_one_of_other_weights(lived_in, adreg, data, tmp_path, tiny_gpt2):
    words = ["train", "-d", data, "--parent", "voice:dev", "--max-steps", 2, *QUICK]
    done = adreg(*words, "-o", tmp_path / "more", "--push", "voice", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["parent"]["reference"] == "voice:1"
    shown = json.loads(adreg("show", "voice:2", "--json").out)
    assert [(parent["reference"], parent["relation"]) for parent in shown["parents"]] == [("voice:1", "continued")]
    assert adreg("base", "add", tiny_gpt2, "--name", "other").code == 0
    refused = adreg(*words, "--base", "other", "-o", tmp_path / "wrong")
    assert refused.code == 4 and "voice:dev was trained on other weights" in refused.err


@pytest.mark.parametrize("room", [60, 80, 120])
def test_the_moving_line_fits_and_tells_the_most_useful_first(room):
    pulse = Pulse()
    for number in range(1, 400):
        pulse.took([number, 3.0, 1e-3, 651.0, 1.0, 1.2e9])
    pulse.held_out = 3.127
    line = moving_line(pulse, 1000, "12 min left", room, False)
    assert len(line) < room and "step 399/1000  loss 3.000" in line and "12 min left" in line
    assert ("held-out 3.127" in line) == (room == 120)
