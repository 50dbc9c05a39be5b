"""Carries out the plan of a model: in a server, or in a store. Knows both, and what each is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adreg.errors import ConflictError, UnsupportedError
from adreg.export.ollama.blobs import Blob, hashed
from adreg.export.ollama.image import image_of
from adreg.export.ollama.plan import OllamaPlan
from adreg.export.ollama.server import OllamaServer
from adreg.export.ollama.store import OllamaStore
from adreg.formats.strictjson import JsonObject
from adreg.progress import SILENT, Progress

NO_ADAPTERS_SINCE = (0, 34, 1)
DETECTED = "using autodetected template "


@dataclass(frozen=True)
class Created:
    """A model that was created: where, and the digest of its GGUF file. `template` is the one that Ollama took by itself."""

    name: str
    place: str
    digest: str
    size: int
    template: str | None = None


def create_on_server(plan: OllamaPlan, server: OllamaServer, force: bool = False, progress: Progress = SILENT) -> Created:
    """Carry out `plan`. Raises `ConflictError` where the server has a model of that name (unless `force`), `RemoteError`,
    `UnsupportedError` for an adapter that the server would not take."""
    version = server.version() or ""
    if plan.adapter and _parts(version) >= NO_ADAPTERS_SINCE:
        raise UnsupportedError(f"an ADAPTER in Ollama {version}", "merge it (adreg merge --to gguf), or use --store")
    if not force and server.has_model(str(plan.name)):
        raise ConflictError(f"{server.url} has a model {plan.name} already", "--force replaces it")
    blobs = hashed(plan.files, progress)
    for blob in blobs:
        server.send(blob, progress)
    said = server.create(_body(plan, blobs), plan.size, progress)
    detected = [status.removeprefix(DETECTED) for status in said if status.startswith(DETECTED)]
    return Created(str(plan.name), server.url, blobs[0].digest, blobs[0].size, next(iter(detected), None))


def _body(plan: OllamaPlan, blobs: list[Blob]) -> JsonObject:
    """What /api/create is asked; api.CreateRequest in ollama's api/types.go."""
    model, *adapters = blobs
    said = plan.modelfile
    body = {
        "model": str(plan.name),
        "files": {model.path.name: model.digest},
        "adapters": {adapter.path.name: adapter.digest for adapter in adapters},
        "template": said.template,
        "system": said.system,
        "parameters": dict(said.parameters),
        "messages": [{"role": role, "content": text} for role, text in said.messages],
        "license": list(said.licenses),
        "stream": True,
    }
    return {name: value for name, value in body.items() if value}


def _parts(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with; 0.0.0, a build from source, is before all others."""
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})", version, re.ASCII)
    return tuple(map(int, found.groups())) if found else ()


def create_in_store(plan: OllamaPlan, store: OllamaStore, force: bool = False, progress: Progress = SILENT) -> Created:
    """Carry out `plan` without a server. Raises what `OllamaStore.put` does, and `IntegrityError` when a file changes."""
    store.check()
    blobs = hashed(plan.files, progress)
    store.put(plan.name, image_of(plan, blobs), force, progress)
    return Created(str(plan.name), str(store.folder), blobs[0].digest, blobs[0].size)
