"""The store that a URL means: `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix`. Knows no secret and asks nobody."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from adreg.errors import MissingExtra, UsageError
from adreg.registry.remotes.objects.errors import GCS, S3, Bucket
from adreg.registry.remotes.objects.folder import FolderStore
from adreg.registry.remotes.objects.store import BucketStore, ObjectStore

BUCKETS = {"s3": S3, "gs": GCS}
FRESH = {"use_listings_cache": False, "skip_instance_cache": True}
CLIENT = {"s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}}
_BUCKET = re.compile("[a-z0-9][a-z0-9._-]{1,221}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9!_.'()=+,@-]{1,255}", re.ASCII)
_HINT = "a remote in an object store is file:///folder, s3://bucket/prefix or gs://bucket/prefix"


def find_store(url: str) -> ObjectStore:
    """The store at `url`. Raises `UsageError` for what is no such address, `MissingExtra` when its client is not installed."""
    scheme, separator, place = url.partition("://")
    if separator and scheme == "file":
        return FolderStore(url, _folder(url, place))
    if not separator or scheme not in BUCKETS:
        raise UsageError(f"{_shown(url)} is no object store", _HINT)
    root = place.rstrip("/")
    _check_place(url, root)
    bucket = BUCKETS[scheme]
    return BucketStore(f"{scheme}://{root}", _client(scheme, bucket), root, bucket)


def _client(scheme: str, bucket: Bucket) -> Any:
    """fsspec's file system: without its caches, and with who asks and whom taken from the environment."""
    if find_spec("fsspec") is None or find_spec(bucket.package) is None:
        raise MissingExtra(bucket.package, bucket.extra)
    import fsspec  # type: ignore[import-untyped]

    return fsspec.filesystem(scheme, **FRESH, **CLIENT.get(scheme, {}))


def _folder(url: str, place: str) -> Path:
    path = unquote(place, errors="strict")
    if not path.startswith("/") or "\0" in path or ".." in Path(path).parts:
        raise UsageError(f"{url!r} names no folder", "give its whole path: file:///home/me/adapters")
    return Path(path)


def _check_place(url: str, root: str) -> None:
    bucket, *prefix = root.split("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(f"{_shown(url)} holds more than a bucket's name", "credentials come from the environment, not the URL")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{url!r} names no bucket", _HINT)
    for part in prefix:
        if not _PART.fullmatch(part) or part in (".", ".."):
            raise UsageError(f"{url!r}: {part!r} cannot be a part of a prefix", "letters, digits and - _ . are safe everywhere")


def _shown(url: str) -> str:
    """`url` without what may be a secret in it."""
    scheme, separator, place = url.partition("://")
    return repr(f"{scheme}{separator}...@{place.rpartition('@')[2]}" if "@" in place else url)
