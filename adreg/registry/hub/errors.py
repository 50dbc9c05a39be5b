"""The hub client's errors as adreg's own. Knows what can go wrong between here and there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from adreg.errors import AdregError, ConflictError, NotFoundError, RemoteError
from adreg.registry.hub.reference import HubReference

TOKEN_HINT = "check the name, and log in with `hf auth login` or give a token that may do this"
NETWORK_HINT = "check the network and the hub's address; what was done so far can simply be done again"
SHOWN = 300


@contextmanager
def hub_errors(reference: HubReference) -> Iterator[None]:
    """Turn what the hub's client raises inside into `RemoteError`, `NotFoundError` or `ConflictError`."""
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _translated(reference, error) from error
    except OSError as error:
        if type(error).__module__ != "hf_xet":  # a file of this machine; its owner knows better what it means
            raise
        raise RemoteError(str(reference), f"the hub's storage refused: {_plain(str(error))}", TOKEN_HINT) from error


def _translated(reference: HubReference, error: Exception) -> AdregError:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, httpx2.HTTPError | OfflineModeIsEnabled):
        error = cause  # the client wraps what happens in its upload threads
    remote = str(reference)
    if isinstance(error, OfflineModeIsEnabled):
        return RemoteError(remote, "offline mode is on", "unset HF_HUB_OFFLINE")
    if isinstance(error, HfHubHTTPError):
        return _refused(reference, error)
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | ConnectionError):
        return RemoteError(remote, f"the connection failed: {_plain(str(error)) or type(error).__name__}", NETWORK_HINT)
    told = _plain(f"{error} {cause or ''}") or type(error).__name__
    return RemoteError(remote, f"does not answer as a hub does: {told}")


def _refused(reference: HubReference, error: Exception) -> AdregError:
    """An HTTP answer of 400 and above. The hub says 401 for what does not exist, too."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    assert isinstance(error, HfHubHTTPError)
    remote, status, said = str(reference), error.response.status_code, _plain(error.server_message or "")
    reason = f": {said}" if said else ""
    if isinstance(error, GatedRepoError):
        return RemoteError(remote, "its owner grants access by request", "ask for it on the repository's page, then log in")
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError("hub revision", remote)
    if status == 401:
        return RemoteError(remote, "there is no such repository, or no access to it with this token", TOKEN_HINT)
    if isinstance(error, RepositoryNotFoundError):
        return NotFoundError("hub repository", reference.repo)
    if status == 403:
        return RemoteError(remote, f"the token does not allow this{reason}", TOKEN_HINT)
    if status in (409, 412):
        return ConflictError(f"{remote} was changed meanwhile{reason}", "look at what changed there, then do it again")
    if status == 429:
        return RemoteError(remote, "the hub takes no more requests now", "try again in a few minutes")
    return RemoteError(remote, f"the hub answered {status}{reason}", NETWORK_HINT if status >= 500 else "")


def _plain(text: str) -> str:
    """`text` from the other side on one short line, without control characters."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
