"""One spelling for everything that is hashed: canonical JSON (RFC 8785) and canonical tensor names."""

from __future__ import annotations

import json
import math
from typing import Any

WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "language_model.", "transformer.", "model.")
BUFFERS = ("rotary_emb.inv_freq", "position_ids", ".attn.bias", ".attn.masked_bias")
OUTPUT_HEAD = "lm_head.weight"


def canonical_json(value: Any) -> bytes:
    """`value` in the one form RFC 8785 allows: sorted keys, no white space, ECMAScript numbers, UTF-8."""
    try:
        ordered = _ordered(value)
    except _HasFloat:
        return _encode(value).encode()
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()


class _HasFloat(Exception):
    """The standard encoder prints floats as Python does, not as ECMAScript does."""


def _ordered(value: Any) -> Any:
    """`value` with every object's keys in canonical order, for the fast standard encoder."""
    if isinstance(value, float):
        raise _HasFloat
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def _encode(value: Any) -> str:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_encode(key)}:{_encode(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encode, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """A float as ECMAScript prints it: the shortest digits, plain between 1e-7 and 1e21."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).removesuffix(".0").partition("e")
    power = int(exponent or 0)
    whole, _, fraction = mantissa.partition(".")
    if 0 < power < 21:
        return sign + whole + fraction.ljust(power, "0")
    if -7 < power < 0:
        return sign + "0." + "0" * (-power - 1) + whole + fraction
    return sign + (f"{mantissa}e{power:+d}" if power else mantissa)


def canonical_name(name: str) -> str:
    """`name` without the prefixes that wrappers add: `model.layers.0.x` and `layers.0.x` are one tensor."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPERS:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name


def is_buffer(name: str) -> bool:
    """Whether `name` is a computed buffer that some versions save and others do not."""
    return name.endswith(BUFFERS)
