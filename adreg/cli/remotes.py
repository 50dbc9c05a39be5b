"""`adreg remote` and `adreg sync`: other registries by name, and this one brought together with one of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, age, print_line, size
from adreg.errors import UsageError

if TYPE_CHECKING:
    from adreg.registry.remotes.sync import AliasStep, SyncPlan

app = typer.Typer(help="Remotes: other registries, and object stores.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="What the remote is called here.")]


@app.command()
def add(
    name: Name,
    url: Annotated[
        str, typer.Argument(help="https://host, http://host, file:///folder, s3://bucket/prefix, gs://bucket/prefix")
    ],
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the token for it from standard input.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remember a remote; nothing is asked of it yet.

    Example: adreg remote add lab https://adreg.lab.example --token-stdin < token
    """
    from adreg.registry.credentials import PREFIX, is_whole
    from adreg.registry.remotes.catalog import HTTP, Remotes
    from adreg.registry.remotes.tokenfile import keep_token

    found, token = registry(), sys.stdin.readline().strip() if token_stdin else ""
    if token.startswith(PREFIX) and not is_whole(token):
        raise UsageError("that token is not whole: its checksum does not fit", "copy it again")
    if token_stdin and not url.startswith(HTTP):
        raise UsageError("only http and https remotes take a token", "object stores have credentials of their own")
    record = Remotes(found).add(name, url)
    if token_stdin:
        keep_token(record.url, token, found.settings.home)
    Output(json, quiet).done(f"remote {record.name} is {record.url}", vars(record), "name")


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List remotes."""
    from adreg.registry.remotes.catalog import Remotes

    rows = [vars(record) for record in Remotes(registry()).all()]
    columns = {
        "NAME": lambda row: row["name"],
        "URL": lambda row: row["url"],
        "SINCE": lambda row: age(row["created_at"]),
    }
    Output(json, quiet).table(rows, columns, "name", "no remotes yet: adreg remote add NAME URL")


@app.command()
def rm(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """Forget a remote and the token for it; what was pulled from it stays."""
    from adreg.registry.remotes.catalog import Remotes
    from adreg.registry.remotes.tokenfile import forget_token

    found = registry()
    record = Remotes(found).remove(name)
    if record.url not in [other.url for other in Remotes(found).all()]:
        forget_token(record.url, found.settings.home)
    Output(json, quiet).done(f"removed remote {name}", vars(record), "name")


def sync(
    remote: Annotated[str, typer.Argument(help="A remote: adreg remote ls.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these adapters.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    aliases: Annotated[
        str | None, typer.Option("--aliases", help="Where aliases differ: `ours` or `theirs` decides. Default: they are left.")
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Follow it: send nothing, have its aliases and no others.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give this registry and a remote the versions that either lacks, and the aliases that only one has.

    Interrupted, it goes on where it stopped when it is called again. Example: adreg sync lab --dry-run
    """
    from adreg.cli.progress import progress
    from adreg.registry.remotes.catalog import Remotes
    from adreg.registry.remotes.sync import Side, plan_sync
    from adreg.registry.remotes.sync import sync as carry_out

    if aliases not in (None, "ours", "theirs"):
        raise UsageError(f"--aliases is ours or theirs, not {aliases!r}")
    if mirror and aliases:
        raise UsageError("--mirror takes the remote's aliases", "leave out --aliases")
    out, found = Output(json, quiet), registry()
    other = Remotes(found).open(remote)
    plan = plan_sync(found, other, names or (), cast(Side | None, aliases), mirror)
    if dry_run:
        _print(out, plan)
        return
    refused = carry_out(found, other, plan, progress(out.human))
    _say_left(out, plan)
    text = f"sent {len(plan.outgoing)} and fetched {len(plan.incoming)} versions, {len(plan.moving) - len(refused)} aliases"
    out.done(f"{remote}: {text}", {**plan.as_json(), "name": remote}, "name")
    if refused:
        raise refused[0]


def _print(out: Output, plan: SyncPlan) -> None:
    """A plan on stdout: a line for each step."""
    if out.json:
        out.data(plan.as_json())
        return
    for version in plan.outgoing:
        print_line(f"send   {version.reference}  {size(version.size)}")
    for manifest in plan.incoming:
        print_line(f"fetch  {manifest.name}:{manifest.number}  {size(manifest.size)}")
    for step in plan.moving:
        side: Literal["here", "there"] = "there" if plan.winner(step) == "ours" else "here"
        print_line(f"alias  {step.name}:{step.alias}  {side}")
    _say_left(out, plan)
    if not (plan.outgoing or plan.incoming or plan.moving):
        out.note("nothing to do")


def _say_left(out: Output, plan: SyncPlan) -> None:
    for step in plan.differing:
        out.note(f"{_differs(step)}; --aliases ours or --aliases theirs decides", "yellow")
    for name in plan.removed:
        out.note(f"{name} was removed here and stays so (adreg restore {name})", "yellow")


def _differs(step: AliasStep) -> str:
    return f"{step.name}:{step.alias} means {str(step.ours)[7:19]} here and {str(step.theirs)[7:19]} there"
