"""`adreg ollama`: models for Ollama, from GGUF files and from registered adapters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import Json, Quiet
from adreg.cli.output import Output, print_line, size
from adreg.cli.progress import progress
from adreg.errors import RemoteError, UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.export.ollama.create import Created
    from adreg.export.ollama.plan import OllamaPlan
    from adreg.export.ollama.server import OllamaServer

NOT_CREATED = 6
app = typer.Typer(help="Models for Ollama, from GGUF files.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="model, model:tag or namespace/model:tag.")]
Model = Annotated[str | None, typer.Argument(metavar="[FILE.gguf | REF]", help="A merged model, or an adapter to merge.")]
Quant = Annotated[str | None, typer.Option("--quant", help="The GGUF type of an adapter that is merged: q8_0.")]
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
    model: Model = None,
    quant: Quant = None,
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

    Example: adreg ollama create lighthouse lighthouse:prod --quant q4_k_m

    Example: adreg ollama create lighthouse ./lighthouse-gguf/lighthouse-135M-Q8_0.gguf -p temperature=0.7
    """
    from adreg.export.ollama.host import server_url
    from adreg.export.ollama.plan import OllamaRequest, plan_model
    from adreg.export.ollama.server import OllamaServer

    if store and host:
        raise UsageError("a store needs no host", "give --store or --host")
    out, server = Output(json, quiet), OllamaServer(server_url(host or os.environ.get("OLLAMA_HOST", "")))
    if model and _is_reference(model) and not (store or dry_run) and server.version() is None:
        raise RemoteError(f"no Ollama answers at {server.url}", f"adreg merge {model} --to gguf -o FOLDER makes its files")
    with _gguf(model, quant, out) as gguf:
        plan = plan_model(OllamaRequest(name, gguf, modelfile, adapter, system, tuple(parameter)))
        if dry_run:
            _show(out, plan)
        elif store:
            from adreg.export.ollama.create import create_in_store
            from adreg.export.ollama.store import OllamaStore

            _told(out, create_in_store(plan, OllamaStore(store.expanduser().absolute()), force, progress(out.human)))
        else:
            _create(out, plan, server, force)


def _is_reference(model: str) -> bool:
    """Whether `model` means a registered adapter and no file."""
    if Path(model).exists() or model.endswith(".gguf"):
        return False
    try:
        parse_reference(model)
    except UsageError:
        return False
    return True


@contextmanager
def _gguf(model: str | None, quant: str | None, out: Output) -> Iterator[Path | None]:
    """The GGUF file that `model` means; that of an adapter is made for as long as it is needed."""
    if model is None or not _is_reference(model):
        if quant is not None:
            raise UsageError("a GGUF file has its type already", "leave out --quant, or name an adapter")
        yield Path(model) if model else None
        return
    from adreg.cli.common import registry, warn_yanked
    from adreg.cli.merging import Wish, base_of, carry_out, merge_request
    from adreg.cli.permits import permit
    from adreg.export.plan import plan_merge

    found = registry()
    version = found.adapters.resolve(parse_reference(model))
    warn_yanked(out, [version])
    record = base_of(found, [version])
    permit(found, record, [version], "export", ())
    with TemporaryDirectory(dir=found.settings.home / "tmp", prefix="ollama-") as place:
        request = merge_request(found, record, [(version, 1.0)], Wish(Path(place) / "gguf", quant=quant or "q8_0"), out)
        yield carry_out(plan_merge(request), out).result.main.path


def _create(out: Output, plan: OllamaPlan, server: OllamaServer, force: bool) -> None:
    """Create the model in the server; where none answers, leave it to the user."""
    from adreg.export.ollama.create import create_on_server
    from adreg.export.ollama.files import prepare

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
