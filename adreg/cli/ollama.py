"""`adreg ollama`: models for Ollama, from GGUF files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import Json, Quiet
from adreg.cli.output import Output, print_line, size
from adreg.cli.progress import progress
from adreg.errors import UsageError

if TYPE_CHECKING:
    from adreg.export.ollama.create import Created
    from adreg.export.ollama.plan import OllamaPlan

NOT_CREATED = 6
app = typer.Typer(help="Models for Ollama, from GGUF files.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="model, model:tag or namespace/model:tag.")]
Gguf = Annotated[Path | None, typer.Argument(metavar="[FILE.gguf]", help="A merged model: adreg merge --to gguf.")]
ModelfileOption = Annotated[Path | None, typer.Option("--modelfile", "-f", help="Default: the one beside the file.")]
Lora = Annotated[Path | None, typer.Option("--adapter", help="A GGUF adapter to put on it; Ollama before 0.34.1.")]
System = Annotated[str | None, typer.Option("--system", help="The system prompt.")]
Parameters = Annotated[list[str], typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="Such as temperature=0.7.")]
Host = Annotated[str | None, typer.Option("--host", help="Where Ollama answers. Default: OLLAMA_HOST, or this machine.")]
Store = Annotated[Path | None, typer.Option("--store", help="Write into this store (OLLAMA_MODELS), without a server.")]
Force = Annotated[bool, typer.Option("--force", help="Replace another model of this name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the Modelfile and do nothing.")]


@app.command()
def create(
    name: Name,
    gguf: Gguf = None,
    modelfile: ModelfileOption = None,
    adapter: Lora = None,
    system: System = None,
    parameter: Parameters = [],  # noqa: B006 - typer copies it
    host: Host = None,
    store: Store = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model of a GGUF file: in a running Ollama, or in its store; where neither is, the commands for it are printed.

    Example: adreg ollama create lighthouse ./lighthouse-gguf/lighthouse-135M-Q8_0.gguf -p temperature=0.7
    """
    from adreg.export.ollama.plan import OllamaRequest, plan_model

    if store and host:
        raise UsageError("a store needs no host", "give --store or --host")
    out = Output(json, quiet)
    plan = plan_model(OllamaRequest(name, gguf, modelfile, adapter, system, tuple(parameter)))
    if dry_run:
        _show(out, plan)
    elif store:
        from adreg.export.ollama.create import create_in_store
        from adreg.export.ollama.store import OllamaStore

        _told(out, create_in_store(plan, OllamaStore(store.expanduser().absolute()), force, progress(out.human)))
    else:
        _create(out, plan, host or os.environ.get("OLLAMA_HOST", ""), force)


def _create(out: Output, plan: OllamaPlan, host: str, force: bool) -> None:
    """Create the model in the server at `host`; where none answers, leave it to the user."""
    from adreg.export.ollama.create import create_on_server
    from adreg.export.ollama.files import prepare
    from adreg.export.ollama.host import server_url
    from adreg.export.ollama.server import OllamaServer

    server = OllamaServer(server_url(host))
    if server.version() is not None:
        _told(out, create_on_server(plan, server, force, progress(out.human)))
        return
    prepared = prepare(plan)
    out.note(f"no Ollama answers at {server.url}, so nothing was created; where one runs:", "yellow")
    lines = {"modelfile": str(prepared.modelfile), "commands": list(prepared.commands)}
    if out.json:
        out.data({"name": prepared.name, "created": False, **lines})
    else:
        for command in prepared.commands:
            print_line(command)
    raise typer.Exit(NOT_CREATED)


def _show(out: Output, plan: OllamaPlan) -> None:
    if out.human:
        out.note(f"{plan.name} would be made of {size(plan.size)} and this Modelfile:")
        print_line(plan.modelfile.text().rstrip("\n"))
    else:
        out.fields(plan.describe(), "name", [])


def _told(out: Output, created: Created) -> None:
    if created.template:
        out.note(
            f"Ollama uses its own template {created.template!r}, which looks like the file's; --store keeps that", "yellow"
        )
    text = f"created {created.name} in {created.place} ({size(created.size)}): ollama run {created.name}"
    out.done(text, {**vars(created), "created": True}, "name")
