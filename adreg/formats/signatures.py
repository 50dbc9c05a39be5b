"""Signatures beside files: which there are, and what an OpenSSF model signature says that it signs. Verifies none.

Source: OpenSSF Model Signing 1.0: a Sigstore bundle, in it a DSSE envelope, in it an in-toto statement.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.strictjson import parse_object

SUFFIXES = (".sig", ".sigstore", ".sigstore.json", ".minisig", ".asc", ".p7s")
PREDICATE = "https://model_signing/signature/v1.0"
LIMIT = 4_000_000


def is_signature(name: str) -> bool:
    """Whether a file is a signature, by its name."""
    return name.lower().endswith(SUFFIXES)


def signed_digests(raw: bytes) -> dict[str, str] | None:
    """The SHA-256 of every file by its name, as a model signature states it; None for a signature of another kind."""
    try:
        bundle = parse_object(raw, Path(), "S-SIG-2")
        payload = base64.b64decode(str(_at(bundle, "dsseEnvelope", "payload")), validate=True)
        statement = parse_object(payload, Path(), "S-SIG-2")
    except (FormatError, binascii.Error, ValueError):
        return None
    resources = _at(statement, "predicate", "resources")
    if statement.get("predicateType") != PREDICATE or not isinstance(resources, list):
        return None
    named = [one for one in resources if isinstance(one, dict) and one.get("algorithm") == "sha256"]
    return {str(one.get("name")): str(one.get("digest")).lower() for one in named}


def _at(value: Any, *keys: str) -> Any:
    """What lies in nested objects under `keys`, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
