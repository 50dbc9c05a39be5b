"""Runs that are interrupted, resumed, spoilt or stopped early: the weights that come out, and what is told."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.errors import ConflictError, Diverged, Interrupted, NotFoundError, UsageError
from adreg.train.config import TrainConfig, check_config
from adreg.train.loop.checkpoint import ADAPTER, read_checkpoint, steps
from adreg.train.loop.identity import differences, identity
from adreg.train.record.recorder import NoRecorder
from adreg.train.run import TrainRequest, train
from tests.builders import build_checkpoint
from tests.train.conftest import TOPICS, chat, prepared, write_rows

IDS = {"weights_id": "b3:00"}
NONE = {"every": None}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    several = [chat(f"What of {topic} and {place}?", f"Aye, {topic}.") for place in ("home", "sea") for topic in TOPICS]
    return write_rows(tmp_path / "rows.jsonl", several)


def config(file: Path, **sections: Any) -> TrainConfig:
    """Eleven steps over two epochs, with dropout."""
    loop = {"epochs": 2.1, "lr": 5e-3, "batch": 3, "micro_tokens": 100, "precision": "fp32", **sections.pop("train", {})}
    looks = {"every": 4, "max_new_tokens": 1} | sections.pop("eval", {})
    some = {"lora": {"r": 4, "dropout": 0.1}, "eval": looks, "save": {"every": 3}, **sections}
    return check_config({"data": {"train": [str(file)], "eval": 0.1}, "train": loop, **some})


class Recorder(NoRecorder):
    """Keeps what it is told, and does `then` when it is told of a step."""

    def __init__(self, then=None):
        self.then, self.steps, self.looks, self.records = then or {}, [], [], []
        self.end: dict[str, Any] = {}

    def began(self, record):
        self.records.append(record)

    def step(self, step):
        self.steps.append(step)
        self.then.get(step.step, lambda: None)()

    def evaluated(self, evaluation):
        self.looks.append(evaluation)

    def ended(self, record):
        self.end = record


def request(base: Path, settings: TrainConfig, place: Path, resume: bool = False) -> TrainRequest:
    run = place / "run"
    return TrainRequest(base, "tiny", IDS, settings, place / "out", run, run if resume else None)


def weights(place: Path) -> bytes:
    return (place / "out" / "adapter_model.safetensors").read_bytes()


def test_a_signal_ends_the_run_after_a_step_and_resuming_gives_the_bytes_of_an_unbroken_run(tiny_llama, rows, tmp_path):
    from adreg.cli.errors import exit_code, hint

    settings = config(rows, eval={"every": 4, "early_stop": 9})
    whole = Recorder()
    train(request(tiny_llama, settings, tmp_path / "whole"), recorder=whole)
    assert not (tmp_path / "whole" / "run").exists(), "a finished run needs no checkpoints"
    first = Recorder({6: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(Interrupted, match="up to step 7 is kept") as caught:
        train(request(tiny_llama, settings, tmp_path), recorder=first)
    assert exit_code(caught.value) == 143 and exit_code(Interrupted("x", 3, signal.SIGINT)) == 130
    assert hint(caught.value) == f"adreg train --resume {caught.value.run_id} goes on from there"
    assert (first.end["outcome"], steps(tmp_path / "run")) == ("interrupted", [6, 7])
    assert not (tmp_path / "out").exists()
    second = Recorder()
    train(request(tiny_llama, settings, tmp_path, resume=True), recorder=second)
    assert weights(tmp_path) == weights(tmp_path / "whole")
    told = {step.step: (step.loss, step.lr, step.grad_norm) for step in [*first.steps, *second.steps]}
    assert told == {step.step: (step.loss, step.lr, step.grad_norm) for step in whole.steps}
    assert [*first.looks, *second.looks] == whole.looks and [look.step for look in whole.looks] == [0, 4, 8, 11]
    assert [entry["step"] for entry in second.end["resumed"]] == [7]
    assert [step.step for step in second.end["losses"]] == list(range(1, 12))
    assert {name: second.end[name] for name in ("tokens", "trained_tokens", "eval")} == {
        name: whole.end[name] for name in ("tokens", "trained_tokens", "eval")
    }


def test_a_second_signal_leaves_at_once(tiny_llama, rows, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    recorder = Recorder({4: twice})
    with pytest.raises(KeyboardInterrupt):
        train(request(tiny_llama, config(rows), tmp_path), recorder=recorder)
    assert (recorder.end["outcome"], steps(tmp_path / "run")) == ("interrupted", [3])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_of_other_data_base_or_settings_is_refused_by_name_unless_forced(tiny_llama, rows, tmp_path):
    with pytest.raises(Interrupted):
        train(request(tiny_llama, config(rows), tmp_path), recorder=Recorder({4: lambda: signal.raise_signal(2)}))
    changed = request(tiny_llama, config(rows, train={"lr": 1e-3}), tmp_path, resume=True)
    changed = replace(changed, base_ids={"weights_id": "b3:1"})
    rows.write_text(rows.read_text().replace("home", "work"))
    told = r"train\.lr was 0\.005 and is 0\.001; the data files are others; the base's weights_id was b3:00 and is b3:1"
    with pytest.raises(ConflictError, match=told):
        train(changed)
    with pytest.raises(NotFoundError, match="checkpoint"):
        train(replace(changed, resume_from=tmp_path / "elsewhere"))
    result = train(replace(changed, force=True))
    assert result.record.resumed[0]["changed"] == told.replace("\\", "").split("; ")
    assert [step.lr for step in result.record.losses][:2] != [0, 0] and result.record.losses[-1].lr < 1e-3
    freely = config(rows, save={"every": 1}, eval={"every": 4, "prompts": ["Who?"]}, description="again")
    assert differences(identity(IDS, config(rows), ["a"]), identity(IDS, freely, ["a"])) == []


def test_early_stopping_keeps_the_best_weights_also_after_a_resume(tiny_llama, rows, tmp_path):
    steep = {"lr": 0.6, "epochs": 3, "schedule": "constant", "warmup": 0}
    settings = config(rows, train=steep, eval={"every": 1, "early_stop": 2})
    whole = Recorder()
    result = train(request(tiny_llama, settings, tmp_path / "whole"), recorder=whole)
    best = min((look for look in whole.looks if look.step), key=lambda look: look.loss)
    assert result.record.outcome == whole.end["outcome"] == "stopped early"
    assert result.record.steps == best.step + 2 and result.record.eval.adapter == best.loss
    at_best = config(rows, train={**steep, "max_steps": best.step}, eval=NONE)
    train(request(tiny_llama, at_best, tmp_path / "best"))
    assert weights(tmp_path / "whole") == weights(tmp_path / "best")
    stop = Recorder({best.step + 1: lambda: signal.raise_signal(signal.SIGINT)})
    with pytest.raises(Interrupted):
        train(request(tiny_llama, settings, tmp_path), recorder=stop)
    train(request(tiny_llama, settings, tmp_path, resume=True))
    assert weights(tmp_path) == weights(tmp_path / "whole")


def test_a_row_whose_loss_is_no_number_ends_the_run_by_name_and_keeps_the_last_good_checkpoint(
    tmp_path, tokenizer_folder, rows
):
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder, tie_word_embeddings=False)
    text = rows.read_text().splitlines()
    rows.write_text("\n".join([*text[:4], text[4].replace("Aye,", "Aye, zebra"), *text[5:]]) + "\n")
    settings = config(rows, train={"seed": 3}, save={"every": 1}, data={"train": [str(rows)], "eval": 0}, eval=NONE)
    examples = prepared(base, settings).train
    others = {int(token) for one in examples if one.line != 5 for token in one.ids}
    odd = next(int(token) for one in examples if one.line == 5 for token in one.ids if int(token) not in others)
    spoilt = load_file(base / "model.safetensors")
    spoilt["model.embed_tokens.weight"][odd] = torch.inf
    save_file(spoilt, base / "model.safetensors", metadata={"format": "pt"})
    recorder = Recorder()
    with pytest.raises(Diverged, match=r"the loss is nan .* for \S*rows\.jsonl:5 alone") as caught:
        train(request(base, settings, tmp_path), recorder=recorder)
    good = caught.value.step - 1
    assert recorder.end["outcome"] == "diverged" and "rows.jsonl:5" in recorder.end["reason"]
    assert good == recorder.steps[-1].step >= 1 and steps(tmp_path / "run")[-1] == good
    kept = read_checkpoint(tmp_path / "run" / f"checkpoint-{good}").tensors(ADAPTER)
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_not_the_run(tiny_llama, rows, tmp_path):
    def limit(size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    recorder = Recorder({5: limit(20_000), 8: limit(resource.RLIM_INFINITY), 10: lambda: signal.raise_signal(2)})
    try:
        with pytest.raises(Interrupted, match="up to step 11"):
            train(request(tiny_llama, config(rows), tmp_path), recorder=recorder)
    finally:
        limit(resource.RLIM_INFINITY)()
        signal.signal(signal.SIGXFSZ, before)
    assert steps(tmp_path / "run") == [9, 11]
    assert recorder.end["warnings"] == [
        "the checkpoint of step 6 could not be written (File too large); that of step 3 is kept"
    ]


def test_evaluation_settings_that_mean_nothing_are_refused(tiny_llama, rows, tmp_path):
    with pytest.raises(UsageError, match=r"eval\.early_stop needs looks"):
        train(request(tiny_llama, config(rows, eval={"every": None, "early_stop": 2}), tmp_path))
    with pytest.raises(UsageError, match="needs held-out rows"):
        train(request(tiny_llama, config(rows, data={"train": [str(rows)], "eval": 0}), tmp_path))
    with pytest.raises(UsageError, match="track names swanlab, which is not installed"):
        train(request(tiny_llama, config(rows, track=["swanlab"]), tmp_path))


FAKE = """
class SummaryWriter:
    def __init__(self, log_dir):
        import pathlib
        self.file = pathlib.Path(log_dir, "scalars.txt")
        self.file.parent.mkdir(parents=True)
    def add_text(self, *_): ...
    def add_scalar(self, name, value, step):
        with self.file.open("a") as file:
            file.write(f"{step} {name} {value}\\n")
    def flush(self): ...
    def close(self): ...
"""


def test_a_tracker_is_told_of_every_step_and_writes_into_the_folder_of_the_run(tiny_llama, rows, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorboardX.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    recorder, before = Recorder(), dict(os.environ)
    train(request(tiny_llama, config(rows, train={"max_steps": 3}, track=["tensorboard"]), tmp_path), recorder=recorder)
    told = (tmp_path / "run" / "tensorboard" / "scalars.txt").read_text().split()
    scalars = {(int(step), name): float(value) for step, name, value in zip(told[::3], told[1::3], told[2::3], strict=True)}
    assert [scalars[step, "train/loss"] for step in (1, 2, 3)] == pytest.approx([one.loss for one in recorder.steps], abs=1e-6)
    assert [scalars[step, "eval/loss"] for step in (0, 3)] == [look.loss for look in recorder.looks]
    assert dict(os.environ) == before
