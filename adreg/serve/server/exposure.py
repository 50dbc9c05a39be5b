"""Who can reach a host name: only this machine, or others too. Knows names and addresses, opens nothing."""

from __future__ import annotations

from adreg.errors import UsageError
from adreg.hosts import is_loopback


def check_exposure(host: str, has_key: bool) -> None:
    """Refuse (`UsageError`) to be reached from other machines by whoever comes along."""
    if not has_key and not is_loopback(host):
        hint = "adreg key create NAME makes an API key, or listen on 127.0.0.1"
        raise UsageError(f"{host!r} can be reached from other machines, and nobody needs an API key", hint)
