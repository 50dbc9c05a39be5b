"""`adreg alias`: movable names for versions."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, Ref, registry
from adreg.cli.output import Output
from adreg.errors import UsageError
from adreg.references import parse_reference

app = typer.Typer(help="Aliases: movable names such as name:prod.", no_args_is_help=True)


@app.command("set")
def set_(
    ref: Ref,
    alias: Annotated[str, typer.Argument(help="The alias, such as prod.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make ALIAS mean the version that REF means now.

    Example: adreg alias set lighthouse:3 prod
    """
    version = registry().adapters.set_alias(parse_reference(ref), alias)
    Output(json, quiet).done(f"{version.adapter}:{alias} is {version.reference}", version.as_json(), "reference")


@app.command()
def rm(
    ref: Annotated[str, typer.Argument(metavar="NAME:ALIAS", help="The alias to remove.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove an alias; its version stays."""
    reference = parse_reference(ref)
    if reference.alias is None:
        raise UsageError(f"{ref!r} is no alias", "write NAME:ALIAS")
    registry().adapters.remove_alias(reference.name, reference.alias)
    Output(json, quiet).done(f"removed alias {ref}", {"alias": ref}, "alias")


@app.command("ls")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this adapter's.")] = None, json: Json = False, quiet: Quiet = False
) -> None:
    """List aliases."""
    rows = registry().adapters.aliases(name)
    columns = {
        "ALIAS": lambda row: row["alias"],
        "VERSION": lambda row: row["reference"],
        "SINCE": lambda row: row["updated_at"],
    }
    Output(json, quiet).table(rows, columns, "alias", "no aliases yet: adreg alias set REF ALIAS")
