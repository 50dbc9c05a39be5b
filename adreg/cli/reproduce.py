"""`adreg reproduce`: a recorded run once more, and whether the same comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import BaseOption, Json, Quiet, registry
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from adreg.cli.trainjob import Order
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.train.record.compare import Comparison

DIFFERENT = 1
ENDED = ("finished", "stopped early")
DECIDING = ("torch", "transformers", "peft", "adreg")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the start of it, or last.")]
Data = Annotated[
    list[Path] | None, typer.Option("--data", "-d", metavar="PATH", help="Where the data lies now: files, or folders of them.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Keep the new adapter in this new folder.")]
Tolerance = Annotated[
    float, typer.Option("--tolerance", help="Losses that agree so far, relatively, are the same.", min=0, max=1)
]


def reproduce(
    run: Run,
    data: Data = None,
    base: BaseOption = None,
    out_folder: Out = None,
    tolerance: Tolerance = 0.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train as RUN did, with its settings, data and base, and compare losses and weights. Exit code 1: something differs.

    Example: adreg reproduce last --data ./moved-here
    """
    from adreg.train.record.compare import compare

    out, found = Output(json, quiet), registry()
    before = found.runs.get(run)
    if before.get("outcome") not in ENDED:
        raise ConflictError(
            f"run {before['id']} is {before.get('outcome')}: there is no end to compare with",
            f"adreg train --resume {before['id']}",
        )
    with TemporaryDirectory(prefix="adreg-reproduce-") as scratch:
        order = _order(found, before, data or [], base, out_folder or Path(scratch) / "adapter", out)
        again = _again(found, order, before, out)
    result = compare(before, again)
    _tell(before, again, result, out)
    if not (result.same or (tolerance and result.agree_to(tolerance))):
        raise typer.Exit(DIFFERENT)


def _order(found: Registry, before: dict[str, Any], data: list[Path], base: str | None, folder: Path, out: Output) -> Order:
    """The run's own settings, on its own data and base. Raises `ConflictError`, `NotFoundError` for what is another."""
    from adreg.cli.trainjob import Order
    from adreg.train.config import recorded_config

    config = _with_data(before, data)
    if (before.get("parent") or {}).get("digest"):
        config["parent"] = _parent(found, before["parent"])
    return Order(recorded_config(config), _base(found, before, base, out), folder, recipe=before.get("recipe"))


def _again(found: Registry, order: Order, before: dict[str, Any], out: Output) -> dict[str, Any]:
    """The record of the run, done once more with as many threads."""
    from dataclasses import asdict

    from adreg.cli.trainjob import run_training
    from adreg.train.record.environment import versions

    now = versions()
    for name in DECIDING:
        was = (before.get("versions") or {}).get(name)
        if was and was != now.get(name):
            out.note(f"{name} was {was} and is {now.get(name)}: the same bytes are not to be expected", "yellow")
    platform = before.get("platform") or {}
    if platform.get("processes", 1) != 1:
        out.note(f"{platform['processes']} processes trained it, and one does now: compare with --tolerance 1e-4", "yellow")
    threads = platform.get("threads")
    if isinstance(threads, int):
        import torch

        torch.set_num_threads(threads)
    result = run_training(found, replace(order), out, reproduces=before["id"])
    return asdict(result.record)


def _with_data(before: dict[str, Any], places: Sequence[Path]) -> dict[str, Any]:
    """The run's configuration with each of its files where the same bytes lie now."""
    config: dict[str, Any] = {**before["config"], "data": dict(before["config"]["data"])}
    digests = {str(report.get("path")): str(report.get("sha256")) for report in before.get("data") or []}
    for name in ("train", "eval"):
        sources = config["data"].get(name)
        if isinstance(sources, list):
            config["data"][name] = [{**source, "path": _found(source["path"], digests, places)} for source in sources]
    return config


def _found(path: str, digests: dict[str, str], places: Sequence[Path]) -> str:
    """Where the file that was at `path` lies now, known by its digest."""
    wanted, name = digests.get(path), Path(path).name
    here = [file for file in _candidates(path, name, places) if file.is_file()]
    for file in here:
        if hashlib.sha256(file.read_bytes()).hexdigest() == wanted:
            return str(file)
    if here:
        raise ConflictError(
            f"{here[0]} is not the {name} of that run: its SHA-256 is not {str(wanted)[:12]}…",
            "--data says where the right one is",
        )
    raise NotFoundError("training file", path if path != "-" else "that came from standard input; --data FILE names it")


def _candidates(path: str, name: str, places: Sequence[Path]) -> Iterable[Path]:
    for place in places:
        if not place.exists():
            raise UsageError(f"--data {place}: there is no such file or folder")
        yield place / name if place.is_dir() else place
    if path != "-":
        yield Path(path)


def _base(found: Registry, before: dict[str, Any], named: str | None, out: Output) -> BaseRecord:
    """The base of the run, the same in all of its ids."""
    from adreg.cli.trainstart import recorded_base

    base = found.bases.ensure(named, progress(out.human)) if named else recorded_base(found, before)
    ids = vars(base.card.ids)
    differing = [name for name, value in before["base"].items() if name in ids and value is not None and ids[name] != value]
    if differing:
        raise ConflictError(
            f"{base.name} is not the base of that run: {', '.join(differing)} differ", f"it was {before['base'].get('name')}"
        )
    return base


def _parent(found: Registry, parent: dict[str, Any]) -> str:
    versions = found.adapters.by_digest(parent["digest"])
    if not versions:
        raise NotFoundError("parent", f"{parent.get('reference')} ({str(parent['digest'])[:19]})")
    return f"{versions[0].adapter}@{parent['digest']}"


def _tell(before: dict[str, Any], again: dict[str, Any], result: Comparison, out: Output) -> None:
    value = {**vars(result), "same": result.same, "run": before["id"], "again": again["id"], "weights": again.get("weights")}
    if not out.human:
        out.done("", value, "again")
        return
    if result.same:
        out.done(
            f"the same: {result.steps} losses and every byte of the adapter ({str(again.get('weights'))[7:19]})", value, "again"
        )
        return
    if result.first:
        step, was, now = result.first
        out.note(f"losses differ from step {step} on: {was:.6f} was, {now:.6f} is; {_agreement(result)}", "yellow")
    elif result.missing:
        out.note(f"{result.missing} steps are in one run only", "yellow")
    weights = {None: "no digest of the weights was recorded", True: "the weights are the same", False: "the weights differ"}
    told = f"{result.steps} losses are the same; " if not result.first else ""
    out.note(told + weights[result.same_weights], "yellow")
    out.hint(f"adreg runs diff {before['id']} {again['id']}")


def _agreement(result: Comparison) -> str:
    return f"at most {result.largest:.1e} apart (relatively) over {result.steps} steps"
