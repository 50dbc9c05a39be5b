"""`adreg serve`: a base and its adapters over one OpenAI-compatible port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import AllowOption, BaseOption, complete_reference, quiet_libraries, registry, warn_yanked
from adreg.cli.merging import base_of
from adreg.cli.output import Output
from adreg.cli.permits import permit, remember
from adreg.cli.progress import progress
from adreg.errors import UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry
    from adreg.serve.engine import Engine

Refs = Annotated[list[str] | None, typer.Argument(metavar="[REF]...", autocompletion=complete_reference)]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; one that others can reach needs a key.")]
Port = Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.", min=0, max=65535)]
KeyFile = Annotated[Path | None, typer.Option("--api-key-file", help="A file that holds the key clients must send.")]


def serve(
    refs: Refs = None,
    base: BaseOption = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
) -> None:
    """Serve a base and adapters at /v1/chat/completions; the adapters are the models.

    Example: adreg serve lighthouse:prod emoji-zh --port 8000
    """
    from adreg.serve.api.app import create_app
    from adreg.serve.exposure import check_exposure
    from adreg.serve.server import serve_forever

    out, found = Output(), registry()
    versions = [found.adapters.resolve(parse_reference(ref)) for ref in refs or []]
    warn_yanked(out, versions)
    if not versions and base is None:
        raise UsageError("there is nothing to serve", "name adapters, or a base with --base")
    record = found.bases.get(base) if base else base_of(found, versions)
    key = _key(api_key_file)
    check_exposure(host, key is not None)
    permits = permit(found, record, versions, "serve", allow)
    engine = load(found, record, versions, out)
    remember(out, found, permits)

    def ready(url: str) -> None:
        names = ", ".join([record.name, *(version.adapter for version in versions)])
        out.note(f"✓ serving {names} at {url}/v1 (Ctrl-C stops)", "green")

    serve_forever(create_app(engine, key), host, port, ready)


def load(found: Registry, record: BaseRecord, versions: list[VersionRecord], out: Output) -> Engine:
    """Check that the base's files are still those of its card, and load the versions beside one copy of its weights.

    The caller asks the audit.
    """
    from adreg.serve.catalog import ServedAdapter
    from adreg.serve.loading import load_engine

    quiet_libraries()
    found.bases.current(record, progress(out.human))
    adapters = [
        ServedAdapter(version.adapter, found.adapters.open(version), version.digest, _aliases(version)) for version in versions
    ]
    return load_engine(record.folder, record.name, record.card.digest, adapters)


def _aliases(version: VersionRecord) -> tuple[str, ...]:
    """The other names a client may use: name:3, name:prod and the digest."""
    tags = [version.reference, *(f"{version.adapter}:{alias}" for alias in version.aliases)]
    return (*tags, f"{version.adapter}@{version.digest}")


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    key = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if len(key) < 16:
        raise UsageError(f"{file} holds no key of at least 16 characters", f"openssl rand -hex 32 > {file}")
    return key
