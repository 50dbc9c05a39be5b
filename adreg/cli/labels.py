"""What people write onto adapters and versions: `adreg describe`, `note`, `tag` and `yank`."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, Ref, complete_name, registry
from adreg.cli.output import Output
from adreg.references import parse_reference

app = typer.Typer(help="Tags: words and key=value pairs on versions.", no_args_is_help=True)
Tags = Annotated[list[str], typer.Argument(metavar="TAG...", help="Words such as evaluated, or pairs such as stage=test.")]


def describe(
    name: Annotated[str, typer.Argument(help="An adapter's name.", autocompletion=complete_name)],
    text: Annotated[str, typer.Argument(help="What the adapter is for; an empty text takes the old one away.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what an adapter is for; `adreg search` finds it by these words.

    Example: adreg describe lighthouse "answers as a lighthouse keeper"
    """
    registry().labels.describe(name, text)
    Output(json, quiet).done(f"described {name}", {"name": name, "description": text}, "name")


def note(
    ref: Ref,
    text: Annotated[str, typer.Argument(help="The note; an empty text takes the old one away.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a note onto one version.

    Example: adreg note lighthouse:3 "held-out loss is down, tone is better"
    """
    version = registry().labels.note(parse_reference(ref), text)
    Output(json, quiet).done(f"noted on {version.reference}", version.as_json(), "reference")


@app.command()
def add(ref: Ref, tags: Tags, json: Json = False, quiet: Quiet = False) -> None:
    """Put tags on a version.

    Example: adreg tag add lighthouse:3 evaluated stage=test
    """
    version = registry().labels.tag(parse_reference(ref), tags)
    Output(json, quiet).done(f"{version.reference} has the tags {', '.join(version.tags)}", version.as_json(), "reference")


@app.command()
def rm(ref: Ref, tags: Tags, json: Json = False, quiet: Quiet = False) -> None:
    """Take tags from a version."""
    version = registry().labels.untag(parse_reference(ref), tags)
    Output(json, quiet).done(
        f"{version.reference} has the tags {', '.join(version.tags) or '-'}", version.as_json(), "reference"
    )


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the tags in use."""
    rows = [{"tag": tag, "versions": count} for tag, count in registry().labels.tags()]
    columns = {"TAG": lambda row: row["tag"], "VERSIONS": lambda row: str(row["versions"])}
    Output(json, quiet).table(rows, columns, "tag", "no tags yet: adreg tag add REF TAG")


def yank(
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", help="Why; whoever asks for it is told.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Make it a version like the others again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Drop the aliases that mean it.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a bad version back: no name, number or alias finds it any more, only its digest.

    Example: adreg yank lighthouse:3 --reason "learned the test set"
    """
    labels = registry().labels
    if undo:
        version = labels.unyank(parse_reference(ref))
        text = f"{version.reference} is a version like the others again"
    else:
        version = labels.yank(parse_reference(ref), reason, force)
        text = f"yanked {version.reference}; {version.by_digest} still finds it"
    Output(json, quiet).done(text, version.as_json(), "reference")
