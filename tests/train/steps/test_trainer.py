"""Fifty steps of our loop against transformers' own Trainer with padded rows and masked labels, in float32."""

from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from adreg.train.config import check_config
from adreg.train.data.encode import IGNORED
from adreg.train.loop.plan import plan_steps
from adreg.train.loop.trainer import run_loop
from adreg.train.model.fused import fuse
from adreg.train.model.load import load_model
from adreg.train.steps.layout import choose_layout
from adreg.train.steps.sft import SftObjective
from tests.builders import build_checkpoint
from tests.train.steps.rows import example

STEPS, BATCH, RATE = 50, 5, 1e-2
ROWS = [example(3 + 7 * seed % 41, seed, common=9) for seed in range(25)]
LOOP = {"lr": RATE, "schedule": "constant", "warmup": 0, "batch": BATCH, "micro_tokens": 120, "precision": "fp32"}
STILL: dict[str, dict[str, Any]] = {"gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}, "llama": {}}


def padded(rows):
    width = max(len(row.ids) for row in rows)
    batch = {name: torch.full((len(rows), width), fill) for name, fill in padding().items()}
    for place, row in enumerate(rows):
        for name, values in (("input_ids", row.ids), ("attention_mask", 1), ("labels", row.labels)):
            batch[name][place, : len(row.ids)] = torch.as_tensor(values)
    return batch


def padding():
    return {"input_ids": 2, "attention_mask": 0, "labels": IGNORED}


def reference(model, rows, folder):
    """The losses that the Trainer logs, step by step."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=padded)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", STILL)
def test_the_losses_of_fifty_steps_are_the_trainer_s(tmp_path, kind):
    base = build_checkpoint(tmp_path / kind, kind, None, dtype=torch.float32, vocab_size=320, **STILL[kind])
    config = check_config({"train": {**LOOP, "max_steps": STEPS}})
    plan = plan_steps(ROWS, config.train)
    ordered = [ROWS[row] for step in range(STEPS) for row in plan.rows(step)]
    expected = reference(load_model(base, config), ordered, str(tmp_path / "trainer"))
    model = load_model(base, config)
    layout = choose_layout(model, ROWS)
    assert layout.share and fuse(model) > 0
    course = run_loop(model, SftObjective(layout), ROWS, config.train)
    losses = [step.loss for step in course.losses]
    assert len(losses) == len(expected) == STEPS
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < 0.95 * losses[0]
