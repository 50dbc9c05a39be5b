"""`adreg registry`: this registry for other machines, over HTTP, and the tokens that they need."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, age, print_line
from adreg.errors import MissingExtra

app = typer.Typer(help="Serve this registry to other machines, and the tokens for it.", no_args_is_help=True)
tokens_app = typer.Typer(help="Tokens for `adreg registry serve`.", no_args_is_help=True)
app.add_typer(tokens_app, name="token")

Host = Annotated[str, typer.Option("--host", help="Address to listen on; one that others can reach needs a token.")]
Port = Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.", min=0, max=65535)]
Anonymous = Annotated[bool, typer.Option("--anonymous-read", help="Reading needs no token.")]


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8765, anonymous_read: Anonymous = False) -> None:
    """Serve this registry: as a remote for other adregs, and as HF_ENDPOINT for whatever reads the Hugging Face Hub.

    Example: adreg registry token create --scope push && adreg registry serve --host 0.0.0.0
    """
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtra(package, "server")
    from adreg.hosts import is_loopback
    from adreg.registry.server.app import check_exposure, create_app
    from adreg.serve.server.server import serve_forever

    out, found = Output(), registry()
    check_exposure(host, found.tokens)
    if not is_loopback(host):
        out.note("this is plain HTTP: where others share the network, let a proxy in front of it speak TLS", "yellow")

    def ready(url: str) -> None:
        out.note(f"✓ serving the registry in {found.settings.home} at {url} (Ctrl-C stops)", "green")
        if not found.tokens.exist():
            out.note("no token was made: every program on this machine may read and change it")

    serve_forever(create_app(found.settings, anonymous_read), host, port, ready)


@tokens_app.command()
def create(
    scope: Annotated[str, typer.Option("--scope", help="read, push (reads too) or admin (may delete too).")] = "read",
    namespace: Annotated[str, typer.Option("--namespace", help="Only adapters called NAMESPACE/…; _ for those without.")] = "*",
    expires: Annotated[str | None, typer.Option("--expires", help="How long it is good: 12h, 30d, 8w.")] = None,
    label: Annotated[str, typer.Option("--label", help="Who or what it is for.")] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a token and print it, this once. As soon as there is one, every request needs one.

    Example: adreg registry token create --scope push --namespace team --expires 30d
    """
    out = Output(json, quiet)
    record, secret = registry().tokens.create(scope, namespace, label, expires)
    if json:
        out.data({**record.as_json(), "token": secret})
        return
    print_line(secret)
    until = f" until {record.expires_at}" if record.expires_at else ""
    out.note(f"token {record.id}: {record.scope.label} in {record.namespace}{until}; it is not shown again")


@tokens_app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List tokens, without their secrets."""
    rows = [token.as_json() for token in registry().tokens.all()]
    columns = {
        "ID": lambda row: row["id"],
        "SCOPE": lambda row: row["scope"],
        "NAMESPACE": lambda row: row["namespace"],
        "STATE": lambda row: row["state"],
        "EXPIRES": lambda row: row["expires_at"] or "never",
        "LAST USED": lambda row: age(row["last_used_at"]) if row["last_used_at"] else "never",
        "LABEL": lambda row: row["label"] or "-",
    }
    Output(json, quiet).table(rows, columns, "id", "no tokens yet: adreg registry token create")


@tokens_app.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The token's id, or the beginning of it.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """End a token at once."""
    record = registry().tokens.revoke(id_)
    Output(json, quiet).done(f"revoked token {record.id}", {"id": record.id}, "id")
