"""What every remote can do: keep blobs by digest, versions as manifests, and aliases that move only when expected."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from adreg.registry.manifest import Manifest


class Remote(Protocol):
    """Another place that holds versions. Every failure of the network or of a permission is a `RemoteError`."""

    @property
    def url(self) -> str: ...

    def names(self) -> list[str]:
        """The adapters it holds."""

    def versions(self, name: str) -> list[Manifest]:
        """Every version of `name`, by number; empty when it does not know the name."""

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → digest of the version that it means."""

    def has_blob(self, digest: str) -> bool: ...

    def fetch_blob(self, digest: str, size: int, target: Path) -> None:
        """Write a blob to `target`, going on where a broken transfer left it. The caller checks the digest."""

    def store_blob(self, digest: str, size: int, source: Path) -> None:
        """Send a blob, which appears there whole or not at all; one that is there already is left."""

    def add_version(self, manifest: Manifest) -> int:
        """Make it the next version of its name there: its number; the same digest again keeps its number."""

    def set_alias(self, name: str, alias: str, digest: str, expect: str | None) -> None:
        """Make `alias` mean the version `digest`. `ConflictError` unless it means `expect` now (None: it is not there)."""
