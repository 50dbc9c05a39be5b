"""`adreg alias`: movable names for versions."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, Ref, complete_name, registry
from adreg.cli.output import Output
from adreg.errors import UsageError
from adreg.references import parse_reference
from adreg.registry.aliases import Move, Now

app = typer.Typer(help="Aliases: movable names such as name:prod.", no_args_is_help=True)

Alias = Annotated[str, typer.Argument(help="The alias, such as prod.")]
Expect = Annotated[
    str | None, typer.Option("--expect", metavar="N|none", help="Only while it means this version, or none, now.")
]
Protect = Annotated[
    bool | None, typer.Option("--protect/--unprotect", help="From now on it moves only with --force, or freely.")
]
Force = Annotated[bool, typer.Option("--force", help="Although it is protected.")]


@app.command("set")
def set_(
    ref: Ref,
    alias: Alias,
    expect: Expect = None,
    protect: Protect = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make ALIAS mean the version that REF means now.

    Example: adreg alias set lighthouse:3 prod --expect 2 --protect
    """
    move = Move(Now.ANYTHING if expect is None else _expected(expect), protect, force)
    version = registry().adapters.set_alias(parse_reference(ref), alias, move)
    Output(json, quiet).done(f"{version.adapter}:{alias} is {version.reference}", version.as_json(), "reference")


def _expected(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--expect {text!r} is no version", "give the number of the version that it means now, or none")
    return int(text)


@app.command()
def rm(
    ref: Annotated[str, typer.Argument(metavar="NAME:ALIAS", help="The alias to remove.")],
    expect: Expect = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove an alias; its version stays."""
    reference = parse_reference(ref)
    if reference.alias is None:
        raise UsageError(f"{ref!r} is no alias", "write NAME:ALIAS")
    move = Move(Now.ANYTHING if expect is None else _expected(expect), force=force)
    registry().adapters.remove_alias(reference.name, reference.alias, move)
    Output(json, quiet).done(f"removed alias {ref}", {"alias": ref}, "alias")


@app.command("ls")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this adapter's.", autocompletion=complete_name)] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List aliases."""
    rows = [alias.as_json() for alias in registry().adapters.aliases(name)]
    columns = {
        "ALIAS": lambda row: row["alias"],
        "VERSION": lambda row: row["reference"],
        "PROTECTED": lambda row: "yes" if row["protected"] else "-",
        "SINCE": lambda row: row["updated_at"],
    }
    Output(json, quiet).table(rows, columns, "alias", "no aliases yet: adreg alias set REF ALIAS")
