"""What a person is told when a training is done: losses, samples, and what to do next."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.cli.output import Output
from adreg.cli.runtext import duration, number_of, perplexity, stop_rates
from adreg.cli.terminal import clean, shortened, terminal_columns

if TYPE_CHECKING:
    from adreg.registry.intake import Pushed
    from adreg.train.run import TrainResult

SHOWN, LINES = 2, 2


def tell(result: TrainResult, pushed: Pushed | None, out: Output) -> None:
    """Everything, on stderr; the record on stdout for scripts."""
    record = asdict(result.record)
    version = {"version": pushed.version.reference, "digest": pushed.version.digest} if pushed else {}
    out.done(_headline(result, pushed), {**record, "folder": str(result.folder), **version}, "id")
    if not out.human:
        return
    for line in _figures(record):
        out.note(f"  {line}")
    for sample in _samples(record):
        _tell_sample(sample, out)
    for place, command in enumerate(_next(result, pushed)):
        out.note(f"{'next:' if place == 0 else '':<6}{command}", "dim")


def _headline(result: TrainResult, pushed: Pushed | None) -> str:
    record = result.record
    text = f"trained {result.folder} in {duration(record.seconds)}"
    if record.outcome != "finished":
        text = f"{text} ({record.outcome} after step {record.steps})"
    if record.eval.base is not None and record.eval.adapter is not None:
        text += f", held-out loss {record.eval.base:.3f} → {record.eval.adapter:.3f}"
    return text + (f", pushed {pushed.version.reference} ({pushed.version.short_digest})" if pushed else "")


def _figures(record: dict[str, Any]) -> list[str]:
    scores, told = record["eval"], []
    learned, seconds = number_of(record["trained_tokens"]), number_of(record["seconds"])
    told.append(f"{record['steps']} steps, {record['rows']} rows, {learned:,.0f} learned tokens, run {record['id']}")
    if scores["base"] is not None and scores["adapter"] is not None and seconds and record["config"]["objective"] == "sft":
        told.append(
            f"perplexity {perplexity(scores['base'])} → {perplexity(scores['adapter'])} on {scores['rows']} held-out rows"
        )
    rates = stop_rates(record)
    if rates:
        told.append(f"answers that ended by themselves: {rates[0]} → {rates[1]}")
    return told


def _samples(record: dict[str, Any]) -> list[Any]:
    """Those that are shown: prompts of the configuration all, else a few of the held-out rows."""
    asked = len(record["config"].get("eval", {}).get("prompts") or [])
    return [sample for sample in record["samples"] if sample[2] is not None][: asked or SHOWN]


def _tell_sample(sample: Any, out: Output) -> None:
    prompt, before, after, *_ = sample
    out.note("")
    out.note(f"  {_folded(prompt, 1)}", "bold")
    if before is not None:
        out.note(f"  base     {_folded(before, LINES)}", "dim")
    out.note(f"  adapter  {_folded(after, LINES)}", "green")


def _folded(text: str, lines: int) -> str:
    room = terminal_columns(sys.stderr) or 100
    return shortened(" ".join(clean(str(text)).split()) or "(nothing)", max(20, room * lines - 12))


def _next(result: TrainResult, pushed: Pushed | None) -> list[str]:
    run, folder = result.record.id, Path(result.folder)
    if pushed is None:
        return [f"adreg push {folder} {folder.name}", f"adreg runs show {run}", f"adreg runs plot {run}"]
    name = pushed.version.reference
    return [f"adreg chat {name}", f"adreg audit {name}", f"adreg runs show {run}", f"adreg runs plot {run}"]
