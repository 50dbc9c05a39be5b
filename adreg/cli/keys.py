"""`adreg key`: API keys for `adreg serve`, kept in the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, age, print_line
from adreg.registry.keys import Grant

app = typer.Typer(help="API keys for `adreg serve`.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: letters, digits, '.', '_' and '-'.")]
Models = Annotated[list[str], typer.Option("--models", metavar="PATTERN", help="Only models called so, such as 'demo/*'.")]
Expires = Annotated[str | None, typer.Option("--expires", help="How long it is good: 12h, 30d, 8w.")]
Requests = Annotated[int | None, typer.Option("--rpm", metavar="N", help="Requests a minute.", min=1)]
Tokens = Annotated[int | None, typer.Option("--tpm", metavar="N", help="Tokens a minute, of prompts and answers.", min=1)]
Concurrent = Annotated[int | None, typer.Option("--concurrent", metavar="N", help="Requests at a time.", min=1)]
STYLES = {"active": "", "expired": "yellow", "revoked": "dim"}


@app.command()
def create(
    name: Name,
    models: Models = ["*"],  # noqa: B006 - typer copies it
    expires: Expires = None,
    rpm: Requests = None,
    tpm: Tokens = None,
    concurrent: Concurrent = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a key and print it, this once. As soon as there is one, `adreg serve` answers nobody without.

    Running servers take it within seconds. With --api-key-file only the keys of that file count.
    Example: adreg key create team-a --models 'demo/*' --expires 30d --rpm 600
    """
    out = Output(json, quiet)
    record, secret = registry().keys.create(name, Grant(tuple(models), rpm, tpm, concurrent), expires)
    if json:
        out.data({**record.as_json(), "key": secret})
        return
    print_line(secret)
    until = f" until {record.expires_at}" if record.expires_at else ""
    out.note(f"key {record.name} for {', '.join(record.grant.models)}{until}; it is not shown again")


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List keys, without their secrets; those that ended too."""
    rows = [key.as_json() for key in registry().keys.all()]
    columns = {
        "NAME": lambda row: row["name"],
        "STATE": lambda row: row["state"],
        "MODELS": lambda row: ", ".join(row["models"]),
        "REQ/MIN": lambda row: _limit(row["requests_per_minute"]),
        "TOK/MIN": lambda row: _limit(row["tokens_per_minute"]),
        "AT ONCE": lambda row: _limit(row["concurrent"]),
        "EXPIRES": lambda row: row["expires_at"] or "never",
        "MADE": lambda row: age(row["created_at"]),
    }
    Output(json, quiet).table(rows, columns, "name", "no keys yet: adreg key create NAME", lambda row: STYLES[row["state"]])


def _limit(count: int | None) -> str:
    return "-" if count is None else str(count)


@app.command()
def revoke(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """End a key; running servers refuse it within seconds. Its name is free for a new one."""
    record = registry().keys.revoke(name)
    Output(json, quiet).done(f"revoked key {record.name}", {"name": record.name}, "name")
