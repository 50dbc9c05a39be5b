"""Where things lie in a remote of objects: keys for blobs, versions and aliases, and what listed names may mean.

    adreg-remote.json                              says that this is a remote, and of which format
    blobs/sha256/ab/<64 hex>                       a file
    adapters/<ns or _>/<name>/versions/<n>.json    the manifest of version n
    adapters/<ns or _>/<name>/aliases/<a>/<n>.json what alias `a` meant from its n-th change on; the highest is current

Every object is created once, under the condition that it is not there, and never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from adreg.errors import BadReference, IntegrityError
from adreg.references import check_alias, check_name
from adreg.registry.store.blobs import DIGEST

MARKER = "adreg-remote.json"
ADAPTERS = "adapters"
LAST = 999_999_999
_NO_NAMESPACE = "_"
_NUMBERED = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)


def blob_key(digest: str) -> str:
    """The key of a blob. Raises `IntegrityError` for text that is no digest: it must never become a key."""
    if not DIGEST.fullmatch(digest):
        raise IntegrityError(f"{digest[:80]!r} is no SHA-256 digest")
    value = digest.removeprefix("sha256:")
    return f"blobs/sha256/{value[:2]}/{value}"


def versions_key(name: str) -> str:
    return f"{_adapter_key(name)}/versions"


def aliases_key(name: str) -> str:
    return f"{_adapter_key(name)}/aliases"


def alias_key(name: str, alias: str) -> str:
    return f"{aliases_key(name)}/{check_alias(alias)}"


def numbered(number: int) -> str:
    """The name of the `number`-th object of a row."""
    return f"{number}.json"


def numbers(listed: Iterable[str]) -> list[int]:
    """The numbers among listed names, in order; nothing that adreg did not name counts."""
    found = (_NUMBERED.fullmatch(name) for name in listed)
    return sorted(int(match[1]) for match in found if match)


def namespaces(listed: Iterable[str]) -> list[str]:
    """The folders under `adapters/` that adreg could have made."""
    return [folder for folder in listed if folder == _NO_NAMESPACE or _allows(check_name, folder)]


def adapter_name(namespace: str, folder: str) -> str | None:
    """The adapter that lies at `<namespace>/<folder>`, or None when no adapter can be called so."""
    if not _allows(check_name, folder):
        return None
    return folder if namespace == _NO_NAMESPACE else f"{namespace}/{folder}"


def aliases(listed: Iterable[str]) -> list[str]:
    """The folders under `aliases/` that adreg could have made."""
    return [folder for folder in listed if _allows(check_alias, folder)]


def _adapter_key(name: str) -> str:
    namespace, slash, own = check_name(name).rpartition("/")
    return f"{ADAPTERS}/{namespace if slash else _NO_NAMESPACE}/{own}"


def _allows(check: Callable[[str], str], part: str) -> bool:
    try:
        return "/" not in check(part)
    except BadReference:
        return False
