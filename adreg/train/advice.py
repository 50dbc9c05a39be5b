"""What looks odd about settings and data, each with what to do about it. Refuses nothing: it may be meant so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adreg.train.config import TrainConfig
from adreg.train.data.report import DataReport

USUAL_RATES = {
    "dpo": (5e-7, 1e-4), "lora": (2e-5, 5e-3), "loha": (2e-5, 5e-3), "lokr": (2e-5, 5e-3), "ia3": (5e-4, 3e-2),
    "prefix": (5e-4, 0.3), "p-tuning": (5e-4, 0.3), "prompt": (5e-4, 0.5),
}  # fmt: skip
MOST_DROPOUT, FEW_ROWS, FEW_STEPS, MANY_EPOCHS = 0.3, 50, 10, 20
SCALES = (0.25, 8.0)


def advice(
    config: TrainConfig, rows: int, held_out: int, steps: int, reports: Sequence[DataReport], trainable: int | None
) -> Iterator[str]:
    """A sentence for each thing that is odd."""
    yield from _of_rate(config)
    if config.method == "lora":
        yield from _of_lora(config)
    yield from _of_rows(config, rows, held_out, steps)
    for report in reports:
        yield from _of_file(report)
    if trainable is not None and config.expected_trainable not in (None, trainable):
        yield f"expected_trainable is {config.expected_trainable:,}, and {trainable:,} would be trained: this will be refused"


def _of_rate(config: TrainConfig) -> Iterator[str]:
    kind = "dpo" if config.objective == "dpo" else config.method
    (low, high), rate = USUAL_RATES[kind], config.train.lr
    if not low <= rate <= high:
        word = "low" if rate < low else "high"
        yield f"train.lr {rate:g} is {word} for {kind}; usual are {low:g} to {high:g}"


def _of_lora(config: TrainConfig) -> Iterator[str]:
    lora = config.lora
    if lora.dropout > MOST_DROPOUT:
        yield f"lora.dropout {lora.dropout:g} forgets most of what the adapter sees; usual are 0 to 0.1"
    scale = lora.chosen_alpha / (lora.r**0.5 if lora.rslora else lora.r)
    if not SCALES[0] <= scale <= SCALES[1]:
        root = "√r" if lora.rslora else "r"
        yield f"alpha/{root} is {scale:g}, by which the adapter is multiplied; usual are 1 to 4"


def _of_rows(config: TrainConfig, rows: int, held_out: int, steps: int) -> Iterator[str]:
    loop = config.train
    if rows < FEW_ROWS:
        yield f"{rows} rows are few: the model may learn them by heart; look at the held-out loss"
    if not held_out:
        yield "no rows are held out, so nothing tells learning from memorising: data.eval=0.05 holds some out"
    if loop.batch > rows and not loop.packing:
        yield f"train.batch {loop.batch} is more than there are rows: each step takes all {rows}"
    if steps < FEW_STEPS:
        yield f"{steps} steps are few: more epochs, or a smaller train.batch"
    if loop.max_steps is None and loop.epochs > MANY_EPOCHS:
        yield f"{loop.epochs:g} epochs are many: data.eval and eval.early_stop end them in time"


def _of_file(report: DataReport) -> Iterator[str]:
    lost = sum(report.dropped.values())
    if report.rows and lost > 0.1 * report.rows:
        reasons = ", ".join(f"{count} {why}" for why, count in report.dropped.items())
        yield f"{report.path}: {lost} of {report.rows} rows are left out ({reasons})"
    if report.rows and report.duplicates > 0.1 * report.rows:
        yield f"{report.path}: {report.duplicates} of {report.rows} rows are duplicates of others"
