"""The registry as the hub's clients see it: `hub_api`'s catalog, for whoever is asking."""

from __future__ import annotations

from dataclasses import dataclass

from adreg.errors import NotFoundError, YankedError
from adreg.registry.server.callers import asking
from adreg.registry.server.hub_api import HubFile, HubRepo, hub_revision
from adreg.registry.server.state import State
from adreg.registry.tokens import Scope

COMMIT_LENGTH = 40


@dataclass(frozen=True)
class HubCatalog:
    """The versions that the caller of the moment may read."""

    state: State

    def find(self, repo_id: str, revision: str) -> HubRepo:
        """As `hub_api.Catalog.find`. A namespace that the caller may not read does not exist for it."""
        reference = hub_revision(repo_id, revision)
        caller, registry = asking.get(), self.state.registry()
        caller.require(Scope.READ)
        if not caller.reaches(reference.name):
            raise NotFoundError("adapter", repo_id)
        try:
            version = registry.adapters.resolve(reference)
        except YankedError as error:
            raise NotFoundError("version", str(reference)) from error
        files = {
            name: HubFile(registry.blobs.size(digest), digest.removeprefix("sha256:"), registry.blobs.path(digest))
            for name, digest in version.files.items()
        }
        commit = version.digest.removeprefix("sha256:")[:COMMIT_LENGTH]
        return HubRepo(repo_id, commit, files, version.created_at, version.tags)
