"""The registry: one folder with a database and blobs, and the records in it by kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from adreg.errors import IntegrityError
from adreg.registry.adapters import Adapters
from adreg.registry.artifacts import Artifacts
from adreg.registry.runs import Runs
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import open_database
from adreg.registry.store.sqlite import Database
from adreg.settings import Settings

if TYPE_CHECKING:
    from adreg.registry.bases import Bases
    from adreg.registry.keys import ApiKeys
    from adreg.registry.labels import Labels
    from adreg.registry.tokens import Tokens


@dataclass(frozen=True)
class Registry:
    """Opens its database at first use, so that a mistyped command does not create one."""

    settings: Settings

    @cached_property
    def db(self) -> Database:
        database = self.settings.database
        if self.blobs.any() and not (database.exists() and database.stat().st_size):
            raise IntegrityError(f"{database} is gone, though its blobs are here: restore a backup, or put the file back")
        return open_database(database)

    @property
    def blobs(self) -> BlobStore:
        return BlobStore(self.settings.home)

    @property
    def bases(self) -> Bases:
        from adreg.registry.bases import Bases

        return Bases(self.db, self.settings.home)

    @property
    def adapters(self) -> Adapters:
        return Adapters(self.db, self.blobs)

    @property
    def labels(self) -> Labels:
        from adreg.registry.labels import Labels

        return Labels(self.db)

    @property
    def runs(self) -> Runs:
        return Runs(self.db, self.settings.home)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.db)

    @property
    def tokens(self) -> Tokens:
        from adreg.registry.tokens import Tokens

        return Tokens(self.db)

    @property
    def keys(self) -> ApiKeys:
        from adreg.registry.keys import ApiKeys

        return ApiKeys(self.db)
