"""Which address `OLLAMA_HOST` means. Source: ollama 0.33, envconfig/config.go (Host, ConnectableHost)."""

from __future__ import annotations

import ipaddress
import re

from adreg.errors import UsageError

PORT = 11434
PORTS = {"http": 80, "https": 443}
HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?")


def server_url(text: str) -> str:
    """The URL of the server for `HOST`, `:PORT`, `HOST:PORT` or a URL; an empty text means this machine's own.

    Addresses that only a server can listen on (0.0.0.0, [::]) become this machine's. Raises `UsageError`.
    """
    scheme, separator, place = text.strip().strip("\"'").strip().partition("://")
    scheme, place = (scheme, place) if separator else ("http", scheme)
    if scheme not in PORTS:
        raise UsageError(f"{text!r} is no address of an Ollama server", "give OLLAMA_HOST as HOST:PORT or http://HOST:PORT")
    server, _, path = place.partition("/")
    host, port = _host_and_port(server)
    return f"{scheme}://{_reachable(host)}:{port or (PORTS[scheme] if separator else PORT)}" + (f"/{path}" if path else "")


def _host_and_port(server: str) -> tuple[str, int | None]:
    if _address(server):
        return server, None
    found = HOST_AND_PORT.fullmatch(server)
    port = found["port"] if found else "?"
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
        raise UsageError(f"{server!r} has no usable port", "give OLLAMA_HOST as HOST:PORT")
    return (found["host"] if found else ""), None if port is None else int(port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _reachable(host: str) -> str:
    address = _address(host)
    if address is None:
        return host or "127.0.0.1"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
