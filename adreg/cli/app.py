"""The `adreg` command: which noun or verb lives where. A command imports its own module and no other's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from adreg import __version__
from adreg.cli.errors import guarded

START, BASES, TRAIN, REGISTRY, KEEP, USE = "Start here", "Bases", "Train", "Registry", "Keep", "Prove and use"
COMMANDS = {
    "demo": ("demo:demo", START),
    "base": ("bases:app", BASES),
    "data": ("data:app", TRAIN),
    "train": ("train:train", TRAIN),
    "recipes": ("recipes:app", TRAIN),
    "runs": ("runs:app", TRAIN),
    "reproduce": ("reproduce:reproduce", TRAIN),
    "push": ("adapters:push", REGISTRY),
    "pull": ("adapters:pull", REGISTRY),
    "ls": ("listing:list_", REGISTRY),
    "search": ("listing:search", REGISTRY),
    "show": ("show:show", REGISTRY),
    "log": ("lineage:log", REGISTRY),
    "trace": ("lineage:trace", REGISTRY),
    "diff": ("diff:diff", REGISTRY),
    "alias": ("aliases:app", REGISTRY),
    "tag": ("labels:app", REGISTRY),
    "note": ("labels:note", REGISTRY),
    "describe": ("labels:describe", REGISTRY),
    "yank": ("labels:yank", REGISTRY),
    "rm": ("adapters:rm", REGISTRY),
    "restore": ("upkeep:restore", REGISTRY),
    "remote": ("remotes:app", REGISTRY),
    "sync": ("remotes:sync", REGISTRY),
    "registry": ("registry_serve:app", REGISTRY),
    "fsck": ("upkeep:fsck", KEEP),
    "gc": ("upkeep:gc", KEEP),
    "backup": ("upkeep:backup", KEEP),
    "doctor": ("upkeep:doctor", KEEP),
    "audit": ("audit:audit", USE),
    "merge": ("merge:merge", USE),
    "export": ("export:app", USE),
    "ollama": ("ollama:app", USE),
    "serve": ("serve:serve", USE),
    "gateway": ("gateway:gateway", USE),
    "key": ("keys:app", USE),
    "ps": ("ps:ps", USE),
    "chat": ("chat:chat", USE),
}


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """The commands, or only the one that `words` begin with: the others' modules are not imported for it."""
    app = typer.Typer(
        name="adreg",
        help="LoRA adapters from training to serving, each tied by content hash to its exact base.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name in words[:1] if set(words[:1]) & set(COMMANDS) else COMMANDS:
        _add(app, name)
    return app


def _add(app: typer.Typer, name: str) -> None:
    (place, panel) = COMMANDS[name]
    name_of_module, _, attribute = place.partition(":")
    module = import_module(f"adreg.cli.{name_of_module}")
    found = getattr(module, attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, rich_help_panel=panel)
    else:
        app.command(name, cls=getattr(module, "COMMAND_CLASSES", {}).get(attribute), rich_help_panel=panel)(found)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adreg {__version__}")
        raise typer.Exit


def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """LoRA adapters from training to serving, each tied by content hash to its exact base."""


def main() -> None:
    """Run the command line; the console script's entry point."""
    # threads that spin while they wait take the processor from whatever else the machine does: 20 times slower beside it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    guarded(command_line(sys.argv[1:]))
