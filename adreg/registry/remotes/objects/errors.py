"""What goes wrong between here and an object store, as adreg's own errors. Knows the clients' errors, nothing of adreg."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adreg.errors import RemoteError

AGAIN = "try again in a minute; what was done so far stays done"
SHOWN = 300
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")


@dataclass(frozen=True)
class Bucket:
    """A kind of object store: the client that knows it, the extra that brings it, and how its users configure it."""

    package: str
    extra: str
    foreign: tuple[str, ...]
    credentials: str
    address: str


S3 = Bucket(
    package="s3fs",
    extra="s3",
    foreign=("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError", "aiohttp.ClientError"),
    credentials="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may list, read and write there",
    address="check the network, AWS_ENDPOINT_URL and AWS_REGION",
)
GCS = Bucket(
    package="gcsfs",
    extra="gcs",
    foreign=("google.auth.exceptions.GoogleAuthError", "gcsfs.retry.HttpError", "aiohttp.ClientError"),
    credentials="log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    address="check the network and the name of the bucket",
)


@contextmanager
def bucket_errors(bucket: Bucket, url: str) -> Iterator[None]:
    """Turn what the client of `bucket` raises inside into a `RemoteError` about `url`."""
    expected: tuple[type[Exception], ...] = (OSError, ValueError, *_foreign(bucket))
    try:
        yield
    except expected as error:
        raise translated(bucket, url, error) from error


def translated(bucket: Bucket, url: str, error: Exception) -> RemoteError:
    """What `error` means to the user of the bucket at `url`."""
    code, kind, number = _code(error), type(error).__name__, getattr(error, "errno", None)
    if code == "NoSuchBucket":
        return RemoteError(url, "there is no such bucket", f"create it; or {bucket.address}")
    if "Credential" in kind or "Token" in kind or kind == "RefreshError":
        return RemoteError(url, f"no credentials that work: {_plain(error)}", bucket.credentials)
    if isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403) or "Forbidden" in str(error):
        return RemoteError(url, f"access was denied: {_plain(error)}", bucket.credentials)
    if number == errno.EBUSY or code in CONFLICTS:
        return RemoteError(url, f"is busy: {_plain(error)}", AGAIN)
    if number == getattr(errno, "EREMCHG", -1) or "Region" in kind:
        return RemoteError(url, "is in another region", bucket.address)
    return RemoteError(url, f"the request failed: {_plain(error)}", bucket.address)


def is_there(error: Exception) -> bool:
    """Whether a conditional create failed because there is an object. Not every S3 says which condition it was."""
    return isinstance(error, FileExistsError) or _code(error) in ("PreconditionFailed", "412")


def is_conflict(error: Exception) -> bool:
    """Whether two requests for one object met (S3 answers 409) and the same one should be sent again."""
    return _code(error) in CONFLICTS


def is_absent(error: Exception) -> bool:
    """Whether an object is not there, though its bucket is."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def _code(error: BaseException) -> str:
    """The store's own word for what happened (S3 API reference, Error responses), or nothing."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _foreign(bucket: Bucket) -> tuple[type[Exception], ...]:
    """The classes of errors that the client lets through and that are no `OSError`."""
    paths = (path.rpartition(".") for path in bucket.foreign)
    return tuple(getattr(importlib.import_module(module), name) for module, _, name in paths)


def _plain(error: Exception) -> str:
    """What the other side said, on one short line, without control characters."""
    line = " ".join("".join(character if character.isprintable() else " " for character in str(error)).split())
    return line[:SHOWN] or type(error).__name__
