"""`adreg runs plot`: the losses of one run or several, in the terminal and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import Json, registry
from adreg.cli.output import Output, print_line
from adreg.errors import UsageError

if TYPE_CHECKING:
    from adreg.train.record.curves import LossCurve

Ids = Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="Runs by id, start of id, or last, the default.")]
File = Annotated[
    list[Path] | None, typer.Option("--out", "-o", metavar="FILE", help="Write the plot: .svg, or .png with adreg[plot].")
]
TELLING = 3


def plot(runs: Ids = None, files: File = None, json: Json = False) -> None:
    """Plot losses: each step and smoothed, held-out losses, the learning rate; several runs in one picture.

    Example: adreg runs plot last -o loss.svg
    """
    from adreg.cli.picturefile import check_format, write_picture

    for file in files or []:
        check_format(file)
    found = registry().runs
    records = [found.get(run) for run in runs or ["last"]]
    curves = _curves(records)
    out = Output(json)
    if json:
        out.data([{"run": record["id"], **vars(curve)} for record, curve in zip(records, curves, strict=True)])
    else:
        _draw(curves)
    if files:
        from adreg.train.record.lossplot import loss_picture

        picture = loss_picture(curves, *_headings(records))
        for file in files:
            write_picture(file, picture)
            out.note(f"wrote {file}")


def _draw(curves: list[LossCurve]) -> None:
    from adreg.cli.lossterm import loss_lines
    from adreg.cli.terminal import coloured_stdout, terminal_width

    if len(curves) == 1:
        print_line(curves[0].name)
    for line in loss_lines(curves, coloured_stdout(), terminal_width() or 100):
        print_line(line)


def _curves(records: list[dict[str, Any]]) -> list[LossCurve]:
    """The curves, each named by its run and, among several, by what sets it apart."""
    from adreg.registry.rundiff import setting_apart
    from adreg.train.record.curves import curve_of

    apart = setting_apart(records) if len(records) > 1 else [{}]
    curves = [
        curve_of(
            record, "  ".join([f"run {record['id'][:12]}", *(f"{name} {value}" for name, value in list(own.items())[:TELLING])])
        )
        for record, own in zip(records, apart, strict=True)
    ]
    empty = [record["id"] for record, curve in zip(records, curves, strict=True) if not (curve.raw or curve.held_out)]
    if empty:
        raise UsageError(f"run {empty[0]} has no steps to plot")
    return curves


def _headings(records: list[dict[str, Any]]) -> tuple[str, str]:
    """A title, and a line about what was trained."""
    from adreg.cli.runtext import data_names, duration, number_of, part, steps_told
    from adreg.cli.terminal import clean, shortened

    first = records[0]
    told = [str(part(first, "base").get("name") or "unknown base"), ", ".join(data_names(first))]
    if len(records) == 1:
        config = part(first, "config")
        rank = part(config, "lora").get("r")
        told += [f"LoRA r={rank}" if rank and config.get("method", "lora") == "lora" else str(config.get("method") or "")]
        told += [
            f"lr {part(config, 'train').get('lr')}",
            f"{steps_told(first)} steps in {duration(number_of(first.get('seconds')))}",
        ]
    title = f"Run {first['id'][:12]}" if len(records) == 1 else f"{len(records)} runs"
    return title, shortened(clean(" · ".join(part for part in told if part)), 110)
