"""The `adreg` command: registers every noun and verb. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg import __version__
from adreg.cli import adapters, aliases, bases
from adreg.cli.audit import audit
from adreg.cli.errors import guarded

app = typer.Typer(
    name="adreg",
    help="LoRA adapters from training to serving, each tied by content hash to its exact base.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adreg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """LoRA adapters from training to serving, each tied by content hash to its exact base."""


app.add_typer(bases.app, name="base")
app.command()(adapters.push)
app.command()(adapters.pull)
app.command("ls")(adapters.list_)
app.command()(adapters.show)
app.command()(adapters.log)
app.add_typer(aliases.app, name="alias")
app.command()(adapters.rm)
app.command()(adapters.restore)
app.command()(audit)


def main() -> None:
    """Run the command line; the console script's entry point."""
    guarded(app)
