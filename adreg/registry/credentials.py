"""What tokens and API keys have in common: 256 random bits, kept as a hash, good until a time. Knows no table and no server."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from datetime import UTC, datetime, timedelta

from adreg.errors import UsageError
from adreg.registry.store.database import now

PREFIX = "adr_"
LIFETIME = re.compile(r"([1-9][0-9]{0,3})([hdw])", re.ASCII)
UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_SECRET = re.compile(r"adr_([0-9a-f]{64})([0-9a-f]{8})", re.ASCII)


def mint() -> str:
    """A new secret: `adr_`, 256 random bits and their CRC-32, in hex; the checksum tells a typing error from a wrong one."""
    value = secrets.token_hex(32)
    return f"{PREFIX}{value}{_checksum(value)}"


def is_whole(text: str) -> bool:
    """Whether `text` is a whole secret that adreg minted, by its checksum."""
    found = _SECRET.fullmatch(text)
    return found is not None and _checksum(found[1]) == found[2]


def hash_of(secret: str) -> str:
    """SHA-256 in hex. A secret is random and long: there is nothing to guess, so nothing to slow down."""
    return hashlib.sha256(secret.encode()).hexdigest()


def expiry(lifetime: str | None) -> str | None:
    """The moment that lies `lifetime` (such as `30d` or `12h`) ahead; None is never. Raises `UsageError`."""
    if lifetime is None:
        return None
    found = LIFETIME.fullmatch(lifetime)
    if not found:
        raise UsageError(f"{lifetime!r} is no lifetime", "write 12h, 30d or 8w")
    moment = datetime.now(UTC) + timedelta(**{UNITS[found[2]]: int(found[1])})
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def state_of(expires_at: str | None, revoked_at: str | None) -> str:
    """active, expired or revoked."""
    if revoked_at:
        return "revoked"
    return "expired" if expires_at and expires_at <= now() else "active"


def _checksum(value: str) -> str:
    return f"{zlib.crc32(value.encode()):08x}"
