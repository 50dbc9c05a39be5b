"""Two tutorials as trainers, repaired just enough to run: `python -m bench.trainers.tutorials JOB`.

What made them fail is replaced (names that do not exist, arguments that were removed, half precision without a scaler); how
they train is kept: float32, every row padded to a fixed length, prompt and answer learned alike, no end-of-text token.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from bench.trainers.clock import finish, start
from bench.trainers.job import Job, read_job

Row = dict[str, Any]


def main(path: str) -> None:
    job, clock = read_job(path), start()
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    tokenizer.pad_token = tokenizer.eos_token
    rows, collator = encoded(job, tokenizer)
    model = adapted(job, torch.float32)
    Trainer(model=model, args=arguments(job), train_dataset=rows, data_collator=collator).train()
    finish(clock, job, learned(rows, collator), model.get_nb_trainable_parameters()[0])


def encoded(job: Job, tokenizer: Any) -> tuple[list[Row], Any]:
    """The rows as token ids of the tutorial's fixed length, and the collator that it takes."""
    lines = [json.loads(line) for line in job.rows.read_text().splitlines()]
    if job.options["tutorial"] == "qwen-emoji":
        rows = [padded(tokenizer, f"用户: {row['question']} 助手: {row['answer_zh']}", 512) for row in lines]
        return [{**row, "labels": row["input_ids"].copy()} for row in rows], default_data_collator
    rows = [padded(tokenizer, f"{row['question']} {row['answer']}", 128) for row in lines]
    return rows, DataCollatorForLanguageModeling(tokenizer, mlm=False)


def padded(tokenizer: Any, text: str, length: int) -> Row:
    return dict(tokenizer(text, truncation=True, padding="max_length", max_length=length))


def adapted(job: Job, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=dtype)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=job.lora.r, lora_alpha=job.lora.alpha, lora_dropout=0.0, target_modules=job.lora.targets
    )
    return get_peft_model(model, lora)


def arguments(job: Job) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(job.scratch),
        per_device_train_batch_size=job.batch,
        num_train_epochs=1,
        learning_rate=2e-4,
        logging_steps=10,
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def learned(rows: list[Row], collator: Any) -> int:
    """Learned tokens that are no padding."""
    batch = collator([dict(row) for row in rows])
    return int(((batch["labels"] != -100) & (batch["attention_mask"] == 1)).sum())


if __name__ == "__main__":
    main(sys.argv[1])
