"""adreg as a trainer: the path that `adreg train` takes, with its own settings. `python -m bench.trainers.ours JOB`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from bench.trainers.job import Job, read_job


def main(path: str) -> None:
    job = read_job(path)
    if job.options.get("prepare"):
        prepare_only(job)
    else:
        train(job)


def train(job: Job) -> None:
    from adreg.train.config.load import check_config
    from adreg.train.run import TrainRequest
    from adreg.train.run import train as run
    from bench.trainers.clock import finish, start

    clock = start()
    config = check_config(
        {
            "lora": asdict(job.lora),
            "data": {"train": str(job.rows), "eval": 0},
            "train": {"epochs": 1, "batch": job.batch},
            "save": {"every": None},
        }
    )
    record = run(TrainRequest(job.base, "base", {}, config, job.scratch / "adapter")).record
    finish(clock, job, record.trained_tokens, record.trainable)


def prepare_only(job: Job) -> None:
    import json
    import time

    from adreg.formats.bases.checkpoint import open_checkpoint
    from adreg.train.config.load import check_config
    from adreg.train.data.prepare import prepare
    from bench.trainers.job import Prepared

    config = check_config({"data": {"train": str(job.rows), "eval": 0}})
    began = time.perf_counter()
    data = prepare(open_checkpoint(job.base), config.data, 0)
    seconds = time.perf_counter() - began
    learned = sum(report.trained_tokens for report in data.reports)
    job.result.write_text(json.dumps(asdict(Prepared(seconds, len(data.train), learned))))


if __name__ == "__main__":
    main(sys.argv[1])
