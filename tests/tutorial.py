"""The tutorials' way of training on a chat model, in transformers and peft alone. Knows nothing of adreg.

What the tutorials have in common: a made-up text form, every token of it learned, and no stop token in it (their collator
takes tokens equal to the padding for padding).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

FORM = "用户: {} 助手: "
WIDTH = 128

Pair = tuple[str, str]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of CPU of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(time.process_time() - self._began)


@dataclass(frozen=True)
class Tutorial:
    """A training on question and answer pairs with the learning rate, schedule and batch of `settings`.

    `as_written`: float32, and every row padded to `WIDTH` tokens. Otherwise at its best: bfloat16, and rows padded to the
    longest of their batch, which saves time and changes no gradient, for the padding is masked.
    """

    base: Path
    pairs: Sequence[Pair]
    settings: Mapping[str, Any]
    scratch: Path
    as_written: bool = False
    clock: Clock = field(default_factory=Clock)

    def affordable(self, budget: float) -> int:
        """How many steps take `budget` seconds of CPU, going by the faster of two."""
        self.train(2)
        return int(budget / min(self.clock.steps[-2:]))

    def train(self, steps: int) -> Any:
        """The model after so many steps."""
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        tokenizer.pad_token = tokenizer.eos_token
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        rows = [self._row(tokenizer, FORM.format(question) + answer) for question, answer in self.pairs]
        trainer = Trainer(
            model=self._model(),
            args=self._arguments(steps),
            train_dataset=rows,
            data_collator=collator,
            callbacks=[self.clock],
        )
        trainer.train()
        return trainer.model

    def _row(self, tokenizer: Any, text: str) -> dict[str, Any]:
        padding = "max_length" if self.as_written else "do_not_pad"
        return dict(tokenizer(text, truncation=True, padding=padding, max_length=WIDTH))

    def _model(self) -> Any:
        torch.manual_seed(0)
        lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        dtype = torch.float32 if self.as_written else torch.bfloat16
        return get_peft_model(AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype), lora)

    def _arguments(self, steps: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(self.scratch),
            max_steps=steps,
            per_device_train_batch_size=self.settings["batch"],
            learning_rate=self.settings["lr"],
            lr_scheduler_type=self.settings["schedule"],
            warmup_steps=self.settings["warmup"],
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
