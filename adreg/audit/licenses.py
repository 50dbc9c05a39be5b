"""What a base's licence asks of an adapter on it, by the hub's identifiers. A table and a comparison, no legal advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = """
    0bsd afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 isc mit ms-pl ncsa odc-by pddl postgresql
    unlicense wtfpl zlib
"""
PERMISSIVE = frozenset(NAMES.split())
UNSAID = ("", "unknown")
OWN_TERMS = "other"
GATE = "extra_gated_"


def license_of(card: Mapping[str, Any]) -> str:
    """The licence that the front matter of a card names, in small letters; the name of its own where it is `other`."""
    named = card.get("license")
    first = named[0] if isinstance(named, list) and named else named
    text = str(first).strip().lower() if isinstance(first, str) else ""
    own = card.get("license_name")
    named_own = text == OWN_TERMS and isinstance(own, str) and own.strip()
    return str(own).strip().lower()[:80] if named_own else text[:80]


def is_gated(card: Mapping[str, Any]) -> bool:
    """Whether the hub hands the files out only to those whom the owner let in."""
    return any(key.startswith(GATE) for key in card)


def terms(base: str) -> str:
    """What `base` says of what is derived from something under it; empty where it asks for nothing, or is not known."""
    if base in PERMISSIVE or base in UNSAID:
        return ""
    if _has(base, "nd"):
        return "allows nothing derived from it to be passed on"
    return "forbids commercial use of what is derived from it" if _has(base, "nc") else "holds for what is derived from it"


def keeps(own: str, base: str) -> bool:
    """Whether something under `own` keeps the terms of `base`, from which it is derived."""
    if not terms(base):
        return True
    return not _has(base, "nd") and (own == base or (_has(base, "nc") and _has(own, "nc")))


def _has(name: str, clause: str) -> bool:
    """Whether a Creative Commons licence has such a clause."""
    return name.startswith("cc-") and clause in name.split("-")
