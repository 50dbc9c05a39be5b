"""A training's plan, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.cli.output import Output, number, size
from adreg.cli.runtext import duration

if TYPE_CHECKING:
    from adreg.train.plan import TrainPlan


def show_plan(plan: TrainPlan, base: str, out: Output) -> None:
    """Print it; warnings go to stderr."""
    out.fields({"base": base, **plan.as_json()}, "base", _pairs(plan, base))
    for warning in plan.warnings:
        out.note(f"! {warning}", "yellow")
    if plan.available is not None and plan.needed > plan.available:
        out.note(
            f"! it takes about {size(plan.needed)} of memory, and {size(plan.available)} are free: lower train.micro_tokens",
            "red",
        )
    if plan.seconds is None:
        out.note("no time is estimated: without --no-probe two real steps are timed", "dim")


def _pairs(plan: TrainPlan, base: str) -> Iterator[tuple[str, str]]:
    config = plan.config
    yield "base", f"{base}, in {plan.precision}"
    yield "method", _method(config)
    if plan.trainable is not None and plan.total:
        yield "trainable", f"{plan.trainable:,} of {plan.total:,} parameters ({plan.trainable / plan.total:.4%})"
    for file in plan.data:
        yield "data", _file(file)
    held = f", {plan.held_out:,} held out" if plan.held_out else ", none held out"
    yield "rows", f"{plan.rows:,} to train on{held}"
    yield "tokens", f"{plan.tokens:,} an epoch, {plan.learned_share:.0%} of them learned; {number(plan.all_tokens)} in all"
    yield "steps", f"{plan.steps:,}, {_steps(config)}"
    yield "memory", f"about {size(plan.needed)}: {', '.join(f'{name} {size(value)}' for name, value in plan.memory.items())}"
    if plan.probe is not None:
        used = f", {size(plan.probe.memory)} in use" if plan.probe.memory else ""
        yield "two steps", f"{plan.probe.tokens_per_s:,.0f} tokens/s{used}, loss {plan.probe.loss:.3f}"
    if plan.seconds is not None:
        yield "time", f"about {duration(plan.seconds)}"


def _method(config: dict[str, Any]) -> str:
    lora, method = config["lora"], config["method"]
    told = method if config["objective"] == "sft" else f"{config['objective']}, {method}"
    if method != "lora":
        return str(told)
    alpha = lora["alpha"] if lora["alpha"] is not None else 2 * lora["r"]
    targets = lora["targets"] if isinstance(lora["targets"], str) else ",".join(lora["targets"])
    more = [name for name in ("rslora", "dora") if lora[name]] + ([lora["init"]] if lora["init"] != "default" else [])
    return ", ".join([f"{told} r={lora['r']} alpha={alpha:g} on {targets}", *more])


def _file(file: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in file["dropped"].items())
    left = f" (left out: {dropped})" if dropped else ""
    longest = f"longest {file['longest']:,} tokens"
    return f"{Path(file['path']).name}: {file['form']}, {file['used']:,} of {file['rows']:,} rows{left}, {longest}"


def _steps(config: dict[str, Any]) -> str:
    loop = config["train"]
    rows = f"packed to {loop['micro_tokens']} tokens" if loop["packing"] else f"{loop['batch']} rows each"
    length = f"at most {loop['max_steps']}" if loop["max_steps"] else f"{loop['epochs']:g} epochs"
    return f"{rows}, {length}, lr {loop['lr']:g} {loop['schedule']}"
