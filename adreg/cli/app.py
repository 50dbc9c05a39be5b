"""The `adreg` command: registers every noun and verb. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from adreg import __version__
from adreg.cli import adapters, aliases, bases, data, runs
from adreg.cli.audit import audit
from adreg.cli.demo import demo
from adreg.cli.errors import guarded
from adreg.cli.merge import merge
from adreg.cli.serve import serve
from adreg.cli.train import recipes_app, train

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


app.command(rich_help_panel="Start here")(demo)
app.add_typer(bases.app, name="base", rich_help_panel="Bases")
app.add_typer(data.app, name="data", rich_help_panel="Train")
app.command(rich_help_panel="Train")(train)
app.add_typer(recipes_app, name="recipes", rich_help_panel="Train")
app.add_typer(runs.app, name="runs", rich_help_panel="Train")
app.command(rich_help_panel="Registry")(adapters.push)
app.command(rich_help_panel="Registry")(adapters.pull)
app.command("ls", rich_help_panel="Registry")(adapters.list_)
app.command(rich_help_panel="Registry")(adapters.show)
app.command(rich_help_panel="Registry")(adapters.log)
app.add_typer(aliases.app, name="alias", rich_help_panel="Registry")
app.command(rich_help_panel="Registry")(adapters.rm)
app.command(rich_help_panel="Registry")(adapters.restore)
app.command(rich_help_panel="Prove and use")(audit)
app.command(rich_help_panel="Prove and use")(merge)
app.command(rich_help_panel="Prove and use")(serve)


def main() -> None:
    """Run the command line; the console script's entry point."""
    # threads that spin while they wait take the processor from whatever else the machine does: 20 times slower beside it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    guarded(app)
