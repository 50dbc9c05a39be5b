"""Who can reach a host name: only this machine, or others too. Knows names and addresses, opens nothing."""

from __future__ import annotations

import ipaddress

from adreg.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address (IPv6 with or without brackets), is this machine seen from itself."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, has_key: bool) -> None:
    """Refuse (`UsageError`) to be reached from other machines by whoever comes along."""
    if not has_key and not is_loopback(host):
        raise UsageError(f"{host!r} can be reached from other machines", "give an API key, or listen on 127.0.0.1")
