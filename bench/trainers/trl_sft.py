"""TRL as a trainer: the script behind `trl sft`, in this process. `python -m bench.trainers.trl_sft JOB`.

`trl sft` starts that same script by `accelerate launch`; without it a second Python start is spared, which no clock sees.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.trainers.job import Job, Prepared, read_job


def main(path: str) -> None:
    job = read_job(path)
    if job.options.get("prepare"):
        prepare_only(job)
    else:
        train(job)


def train(job: Job) -> None:
    from trl import SFTTrainer

    from bench.trainers.clock import finish, start

    clock, seen = start(), []

    class Seen(SFTTrainer):  # type: ignore[misc]
        """An SFTTrainer that can be asked afterwards."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            seen.append(self)

    sft(job, Seen)
    trainer = seen[0]
    learned = sum(label != -100 for row in trainer.train_dataset["labels"] for label in row)
    finish(clock, job, learned, trainer.model.get_nb_trainable_parameters()[0])


def prepare_only(job: Job) -> None:
    """From the file to what the collator takes, before anything is cached."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    seconds = 0.0

    class Timed(SFTTrainer):  # type: ignore[misc]
        """An SFTTrainer that tells how long it prepared."""

        def _prepare_dataset(self, *arguments: Any, **settings: Any) -> Any:
            nonlocal seconds
            began = time.perf_counter()
            found = super()._prepare_dataset(*arguments, **settings)
            seconds += time.perf_counter() - began
            return found

    model = AutoModelForCausalLM.from_pretrained(job.base)
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    rows = load_dataset("json", data_files=str(job.rows))["train"]
    seconds += time.perf_counter() - began
    config = SFTConfig(output_dir=str(job.scratch), use_cpu=True, dataset_num_proc=job.options.get("processes"))
    found = Timed(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train_dataset
    learned = sum(label != -100 for row in found["labels"] for label in row)
    job.result.write_text(json.dumps(asdict(Prepared(seconds, len(found), learned))))


def sft(job: Job, trainer: type[Any]) -> None:
    """`trl sft` with the words of `command`, and with `trainer` in SFTTrainer's place."""
    import trl
    from trl.scripts.sft import main as script
    from trl.scripts.sft import make_parser

    trl.SFTTrainer = trainer
    parsed = make_parser().parse_args_and_config(args=command(job), fail_with_unknown_args=False)
    script(*parsed)


def command(job: Job) -> list[str]:
    """What stands after `trl sft`: its defaults but for the base, the rows, the adapter, and what is asked for in options."""
    folder = job.scratch / "rows"
    folder.mkdir()
    (folder / "train.jsonl").symlink_to(job.rows)
    settings: dict[str, Any] = {
        "model_name_or_path": job.base,
        "dataset_name": folder,
        "output_dir": job.scratch / "out",
        "use_cpu": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": job.batch,
        "save_strategy": "no",
        "use_peft": True,
        "lora_r": job.lora.r,
        "lora_alpha": job.lora.alpha,
        "lora_dropout": 0.0,
        "lora_target_modules": job.lora.targets,
    }
    asked: Mapping[str, Any] = job.options.get("settings", {})
    return [word for name, value in {**settings, **asked}.items() for word in (f"--{name}", str(value))]


if __name__ == "__main__":
    main(sys.argv[1])
