"""From a name that a client wrote to an adapter's folder on this machine. Knows the registry, and no vLLM; for any thread."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.references import Reference, parse_reference
from adreg.registry.perthread import PerThread
from adreg.registry.remotes.catalog import open_remote
from adreg.registry.remotes.transfer import find_manifest, receive
from adreg.serve.models.offer import Offer
from adreg.serve.models.permitted import PermittedModels
from adreg.serve.models.registered import RegisteredModels
from adreg.serve.plugin.folders import adapter_folder
from adreg.serve.plugin.served import served_base
from adreg.serve.plugin.settings import MUTABLE, PluginSettings

TARGET = "vllm"


@dataclass(frozen=True)
class Library:
    """The adapters for one vLLM, from a local registry, which is filled from a remote one where `settings` name it."""

    registries: PerThread
    settings: PluginSettings
    _catalogs: dict[str, PermittedModels] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def folder(self, model: str, name: str) -> Path:
        """The folder of the adapter called `name`, on the base that vLLM calls `model`; made and verified if need be.

        Raises `BadReference`, `UsageError` for a name that may mean something else tomorrow, `NotFoundError`, `ConflictError`
        with the audit's reason, `IntegrityError`, and what fetching raises.
        """
        reference = parse_reference(name)
        if not (self.settings.mutable or reference.version or reference.digest):
            hint = f"ask for name:3 or name@sha256:…, or set {MUTABLE}=1 and unload it in vLLM when it moves"
            raise UsageError(f"{name!r} may mean another version tomorrow, and vLLM would not ask again", hint)
        catalog, registry = self._catalog(model), self.registries.registry()
        if self.settings.remote:
            reference = self._fetched(self.settings.remote, reference, catalog.models.offer)
        adapter = catalog.resolve(str(reference)).adapter
        if adapter is None:
            raise NotFoundError("adapter", name)
        return adapter_folder(registry, catalog.models.offer.by_digest(adapter))

    def _catalog(self, model: str) -> PermittedModels:
        """The adapters of the base that vLLM serves, whose files are looked at once."""
        with self._lock:
            if model not in self._catalogs:
                base = served_base(self.registries.registry(), self.settings.base or model)
                offer = Offer(self.registries, base, self.settings.refs, self.settings.allow, TARGET)
                self._catalogs[model] = PermittedModels(RegisteredModels(offer), self.settings.max_rank)
            return self._catalogs[model]

    def _fetched(self, url: str, reference: Reference, offer: Offer) -> Reference:
        """The same version by its digest; it is here afterwards, if it belongs on the base. Numbers and aliases are the
        remote's, so only a digest is looked for here first."""
        registry = self.registries.registry()
        with suppress(NotFoundError):
            if reference.digest:
                return Reference(reference.name, digest=registry.adapters.resolve(reference).digest)
        remote = open_remote(url, registry.settings.home)
        manifest = find_manifest(remote, reference)
        if not offer.is_of_base(manifest.trained_on):
            raise ConflictError(f"{reference} was trained on another base than {offer.base.name}; it is not fetched")
        receive(registry, remote, manifest)
        return Reference(reference.name, digest=manifest.digest)
