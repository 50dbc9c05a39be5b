"""`adreg ls` and `adreg search`: what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, complete_base, complete_name, registry
from adreg.cli.output import Output, age, number, size
from adreg.registry.versions import Wanted

Name = Annotated[str | None, typer.Argument(help="Show every version of this adapter.", autocompletion=complete_name)]
Tag = Annotated[str | None, typer.Option("--tag", "-t", help="Only versions with this tag.")]
Base = Annotated[str | None, typer.Option("--base", "-b", help="Only versions of this base.", autocompletion=complete_base)]


def list_(name: Name = None, tag: Tag = None, base: Base = None, json: Json = False, quiet: Quiet = False) -> None:
    """List adapters, each with its newest version that fits, or every version of one.

    Example: adreg ls --base smollm2 --tag evaluated
    """
    found, out = registry(), Output(json, quiet)
    wanted = Wanted(name, tag, found.bases.get(base).card.ids.weights_id if base else None)
    if json:
        out.stream(version.as_json() for version in found.adapters.wanted(wanted))
        return
    rows = found.adapters.listed(wanted)
    columns = {
        "REFERENCE": lambda row: row["reference"],
        "DIGEST": lambda row: row["digest"][7:19],
        "ALIASES": _aliases,
        "BASE": lambda row: row["base"] or "-",
        "RANK": lambda row: str(row["rank"] or "-"),
        "PARAMETERS": lambda row: number(row["parameters"]),
        "SIZE": lambda row: size(row["size"]),
        "CREATED": lambda row: age(row["created_at"]),
    }
    if any(row["tags"] for row in rows):
        columns["TAGS"] = lambda row: ",".join(row["tags"]) or "-"
    out.table(rows, columns, "reference", _nothing(wanted), lambda row: "" if row["yanked"] is None else "struck dim")


def _aliases(row: dict[str, Any]) -> str:
    return "yanked" if row["yanked"] is not None else ",".join(row["aliases"]) or "-"


def _nothing(wanted: Wanted) -> str:
    return "no version fits" if wanted != Wanted() else "no adapters yet: adreg push FOLDER NAME"


def search(
    words: Annotated[list[str], typer.Argument(help="Words; the last may be the start of one.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find adapters by their names, descriptions, notes and tags, best first.

    Example: adreg search lighthouse keeper
    """
    hits = registry().adapters.search(" ".join(words))
    columns = {
        "NAME": lambda row: row["name"],
        "NEWEST": lambda row: str(row["newest"] or "-"),
        "DESCRIPTION": lambda row: row["description"] or "-",
        "FOUND IN": lambda row: row["where"],
    }
    Output(json, quiet).table([hit.as_json() for hit in hits], columns, "name", f"nothing holds {' '.join(words)!r}")
