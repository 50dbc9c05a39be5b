"""One run in full, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adreg.cli.output import age, number, print_line, size
from adreg.cli.runtext import data_names, duration, figure, number_of, part, perplexity, steps_told, stop_rates
from adreg.cli.sparks import sparkline
from adreg.cli.terminal import clean, coloured_stdout, shortened, styled, terminal_width
from adreg.train.record.curves import LossCurve, curve_of

Pairs = Iterator[tuple[str, str]]
SPARK, ANSWER = 40, 400


def run_pairs(record: Mapping[str, Any]) -> Pairs:
    """Labels and texts."""
    yield "run", str(record["id"])
    yield "outcome", _outcome(record)
    yield from _subject(record)
    yield from _course(record)
    yield from _results(record)
    yield from _around(record)


def _outcome(record: Mapping[str, Any]) -> str:
    reason = f": {record['reason']}" if record.get("reason") else ""
    process = part(record, "process")
    where = f", pid {process.get('pid')} on {process.get('host')}" if record.get("outcome") == "running" and process else ""
    took = f", {duration(number_of(record.get('seconds')))}" if record.get("seconds") else ""
    return f"{record.get('outcome')}{reason}{where}, started {age(str(record['started']))}{took}"


def _subject(record: Mapping[str, Any]) -> Pairs:
    base = part(record, "base")
    yield "base", f"{base.get('name')} ({str(base.get('weights_id') or 'unknown')[:15]})"
    parent = part(record, "parent")
    if parent:
        yield "continues", f"{parent.get('reference')} ({str(parent.get('digest') or '')[7:19]})"
    files = [file for file in record.get("data") or [] if isinstance(file, dict)]
    for file, name in zip(files, data_names(record), strict=True):
        yield "data", _file(file, name)
    if record.get("recipe"):
        yield "recipe", str(record["recipe"])
    told = ", ".join(f"{name} {_value(value)}" for name, value in _settings(part(record, "config")))
    yield "settings", told or "-"


def _file(file: Mapping[str, Any], name: str) -> str:
    dropped = part(file, "dropped")
    left = f", dropped: {', '.join(f'{count} {why}' for why, count in dropped.items())}" if dropped else ""
    total, learned = number_of(file.get("total_tokens")), number_of(file.get("trained_tokens"))
    tokens = f", {total:,.0f} tokens, {learned / total:.0%} learned" if total and learned is not None else ""
    return (
        f"{name} ({str(file.get('sha256') or '-')[:12]}): {file.get('used', '?')} of {file.get('rows', '?')} rows{left}{tokens}"
    )


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those that decide most, as far as they are there."""
    lora, loop = part(config, "lora"), part(config, "train")
    yield from ((name, config[name]) for name in ("objective", "method") if config.get(name) not in (None, "sft", "lora"))
    if config.get("method", "lora") == "lora":
        yield from ((name, lora[name]) for name in ("r", "alpha", "dropout", "targets") if lora.get(name))
        yield from ((name, "on") for name in ("rslora", "dora") if lora.get(name))
    names = ("lr", "schedule", "epochs", "max_steps", "batch", "micro_tokens", "seed")
    yield from ((name, loop[name]) for name in names if loop.get(name) is not None)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _course(record: Mapping[str, Any]) -> Pairs:
    curve = curve_of(record, "")
    trainable, total = number_of(record.get("trainable")), number_of(record.get("total"))
    if trainable:
        share = f" of {total:,.0f} ({trainable / total:.4%})" if total else ""
        yield "trainable", f"{trainable:,.0f}{share}"
    tokens = number_of(record.get("tokens"))
    counted = f", {number(tokens)} tokens" if tokens else ""
    yield "steps", steps_told(record) + counted + _pace(record)
    if curve.raw:
        yield "loss", _spark(curve)
    for entry in record.get("resumed") or []:
        if isinstance(entry, dict):
            forced = f", forced: {', '.join(map(str, entry['forced']))}" if entry.get("forced") else ""
            yield "resumed", f"at step {entry.get('step')} ({entry.get('at')}){forced}"


def _spark(curve: LossCurve) -> str:
    values = [loss for _, loss in curve.smooth]
    return f"{values[0]:.3f} {sparkline(values, SPARK)} {values[-1]:.3f} (smoothed)"


def _pace(record: Mapping[str, Any]) -> str:
    steps = [step for step in record.get("losses") or [] if isinstance(step, list) and len(step) > 3]
    speeds = sorted(speed for step in steps if (speed := number_of(step[3])) is not None)
    memory = [value for step in steps if len(step) > 5 and (value := number_of(step[5])) is not None]
    told = f", {speeds[len(speeds) // 2]:,.0f} tokens/s" if speeds else ""
    return told + (f", memory {size(max(memory))}" if memory else "")


def _results(record: Mapping[str, Any]) -> Pairs:
    scores = part(record, "eval")
    before, after = number_of(scores.get("base")), number_of(scores.get("adapter"))
    if before is not None or after is not None:
        rows = f" on {scores.get('rows')} rows" if scores.get("rows") else ""
        yield "held-out loss", f"{figure(before)} → {figure(after)}{rows}"
        if part(record, "config").get("objective", "sft") == "sft":  # a loss of preferences is none of tokens
            yield "perplexity", f"{perplexity(before)} → {perplexity(after)}"
    rates = stop_rates(record)
    if rates:
        yield "answers ended", f"{rates[0]} → {rates[1]}"
    if record.get("weights"):
        yield "weights", str(record["weights"])


def _around(record: Mapping[str, Any]) -> Pairs:
    code, platform = part(record, "code"), part(record, "platform")
    if code.get("commit"):
        dirty = {True: ", with changes", False: "", None: ", changes unknown"}[code.get("dirty")]
        yield "code", f"commit {str(code['commit'])[:12]}{dirty}"
    yield "versions", ", ".join(f"{name} {value}" for name, value in part(record, "versions").items()) or "-"
    shown = ("cpu", "gpus", "device", "threads", "precision", "attention", "deterministic")
    told = [f"{name} {_value(platform[name])}" for name in shown if platform.get(name) not in (None, "", [])]
    yield "machine", ", ".join([str(platform.get("system") or "-"), *told])


def print_samples(record: Mapping[str, Any]) -> None:
    """What base and adapter answer to the eval prompts."""
    colour = coloured_stdout()
    samples = [sample for sample in record.get("samples") or [] if isinstance(sample, list | tuple) and len(sample) == 5]
    for prompt, before, after, *_ in samples:
        print_line("")
        print_line(styled(clean(str(prompt)).strip(), "bold", colour))
        for label, answer, style in (("base", before, "dim"), ("adapter", after, "green")):
            if answer is not None:
                print_line(styled(f"  {label:<9}", "dim", colour) + styled(_folded(str(answer)), style, colour))


def _folded(answer: str) -> str:
    """An answer on a line, cut to a few lines of the terminal."""
    text = " ".join(clean(answer).split()) or "(nothing)"
    room = terminal_width()
    return shortened(text, ANSWER if room is None else max(3 * room - 12, 40))
