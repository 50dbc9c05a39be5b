"""Who trains what: the workloads of `bench/README.md`, and the trainers that are put to each. Starts and measures them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.peers.engine import clean
from bench.trainers import rows
from bench.trainers.job import Job, Lora, Prepared, Trained

ROOT = Path(__file__).parents[2]
TRL = Path(os.environ.get("ADREG_BENCH_PEERS") or ROOT / ".venv" / "peers") / "trl"
TAIL = 3000


@dataclass(frozen=True)
class Workload:
    """`steps` optimizer steps of `batch` rows, each row seen once."""

    name: str
    batch: int
    steps: int
    lora: Lora


EMOJI = Workload("emoji", batch=1, steps=20, lora=Lora(8, 32, ["q_proj", "k_proj", "v_proj", "o_proj"]))
# what c_attn is in GPT-2
QA = Workload("qa", batch=4, steps=20, lora=Lora(16, 32, ["q_proj", "k_proj", "v_proj"]))
CHAT = Workload("chat", batch=8, steps=8, lora=Lora(8, 16, "all-linear"))
PREPARATION = Workload("preparation", batch=1, steps=10_000, lora=CHAT.lora)


@dataclass(frozen=True)
class Contender:
    """A trainer on a workload: a module that is run with a job, and the form in which it takes the rows."""

    name: str
    workload: Workload
    module: str
    form: rows.Form
    options: Mapping[str, Any] = field(default_factory=dict)


TUTORIALS, SFT, OURS = "bench.trainers.tutorials", "bench.trainers.trl_sft", "bench.trainers.ours"
BY_HAND = {"gradient_checkpointing": False, "dtype": "bfloat16", "train_sampling_strategy": "group_by_length"}
TRAINERS = (
    Contender("adreg emoji", EMOJI, OURS, rows.qa_zh),
    Contender("emoji tutorial", EMOJI, TUTORIALS, rows.qa_zh, {"tutorial": "qwen-emoji"}),
    Contender("adreg qa", QA, OURS, rows.qa),
    Contender("GPT-2 tutorial", QA, TUTORIALS, rows.qa, {"tutorial": "gpt2-qa"}),
    Contender("adreg chat", CHAT, OURS, rows.messages),
    Contender("TRL", CHAT, SFT, rows.prompt_completion),
    Contender("TRL by hand", CHAT, SFT, rows.prompt_completion, {"settings": BY_HAND}),
)
PREPARERS = (
    Contender("adreg preparation", PREPARATION, OURS, rows.messages, {"prepare": True}),
    Contender("TRL preparation", PREPARATION, SFT, rows.prompt_completion, {"prepare": True}),
    Contender("TRL preparation, 2 processes", PREPARATION, SFT, rows.prompt_completion, {"prepare": True, "processes": 2}),
    Contender("TRL preparation, all learned", PREPARATION, SFT, rows.messages, {"prepare": True}),
)
NAMES = tuple(one.name for one in (*TRAINERS, *PREPARERS))


def installed(contender: Contender) -> bool:
    """Whether its rows and its trainer are there."""
    return contender.workload is EMOJI or (TRL / ".ready").exists()


def run(contender: Contender, base: Path, share: float = 1) -> Trained | Prepared:
    """What the contender's process measured on `share` of its steps. Raises `RuntimeError` with the end of its log."""
    workload = contender.workload
    with TemporaryDirectory() as place:
        scratch = Path(place)
        file = rows.write(scratch / "rows.jsonl", pairs(workload, share), contender.form)
        (scratch / "work").mkdir()
        job = Job(base, file, workload.batch, workload.lora, scratch / "work", contender.options)
        with (scratch / "log").open("wb") as log:
            command = [sys.executable, "-m", contender.module, str(job.write())]
            done = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=environment(contender, scratch), check=False)
        if done.returncode or not job.result.exists():
            raise RuntimeError(f"{contender.name} failed: {(scratch / 'log').read_text(errors='replace')[-TAIL:]}")
        told: dict[str, Any] = json.loads(job.result.read_text())
        return Prepared(**told) if contender.workload is PREPARATION else Trained(**told)


def pairs(workload: Workload, share: float) -> list[rows.Pair]:
    """The first pairs of the workload's source, as many as its steps take."""
    count = max(round(workload.steps * share), 1) * workload.batch
    if workload is EMOJI:
        return rows.emoji_pairs()[:count]
    found = rows.chatterbot_pairs(TRL)
    return rows.distinct(found, count) if workload is PREPARATION else found[:count]


def environment(contender: Contender, scratch: Path) -> dict[str, str]:
    """Nothing limits threads, nothing is cached from an earlier run, and only TRL sees what was installed for it."""
    path = f"{ROOT}:{TRL}" if contender.module == SFT else str(ROOT)
    own = {"PYTHONPATH": path, "HF_HOME": str(scratch / "hf"), "ADREG_HOME": str(scratch / "home")}
    return {**clean(), **own, "HF_HUB_OFFLINE": "1"}
