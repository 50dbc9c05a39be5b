"""One spelling for everything that is hashed: canonical JSON (RFC 8785) and canonical tensor names."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "language_model.", "transformer.", "model.")
BUFFERS = ("rotary_emb.inv_freq", "position_ids", ".attn.bias", ".attn.masked_bias", "rope_freqs.weight")
OUTPUT_HEAD = "lm_head.weight"
PIECE = 1 << 12
PLAIN = frozenset((str, int, bool, type(None)))
ABOVE_SURROGATES = re.compile("[\ue000-\U0010ffff]")

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """`value` in the one form RFC 8785 allows: sorted keys, no white space, ECMAScript numbers, UTF-8."""
    return _text(value).encode()


def canonical_pieces(value: Any) -> Iterator[bytes]:
    """The bytes of `canonical_json(value)` in pieces, for what is too large to be held twice."""
    if isinstance(value, dict):
        yield from _object_pieces(value)
    elif isinstance(value, list | tuple):
        yield b"["
        for start in range(0, len(value), PIECE):
            yield (("," if start else "") + _text(value[start : start + PIECE])[1:-1]).encode()
        yield b"]"
    else:
        yield canonical_json(value)


def _object_pieces(value: dict[str, Any]) -> Iterator[bytes]:
    keys, plain = _sorted_keys(value), _is_plain(value.values())
    yield b"{"
    for start in range(0, len(keys), PIECE if plain else 1):
        yield b"," if start else b""
        if plain:
            yield _encode({key: value[key] for key in keys[start : start + PIECE]})[1:-1].encode()
        else:
            yield f"{_encode(keys[start])}:".encode()
            yield from canonical_pieces(value[keys[start]])
    yield b"}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        keys = _sorted_keys(value)
        if _is_plain(value.values()):
            return _encode({key: value[key] for key in keys})
        return "{" + ",".join(f"{_encode(key)}:{_text(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return _encode(value) if _is_plain(value) else "[" + ",".join(map(_text, value)) + "]"
    return _number(value) if isinstance(value, float) else _encode(value)


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether the standard encoder is right for all of `values`: it prints floats and orders keys as Python does."""
    return PLAIN.issuperset(map(type, values))


def _sorted_keys(value: dict[str, Any]) -> list[str]:
    """The keys in order of their UTF-16 units, which is that of their code points below U+E000."""
    if ABOVE_SURROGATES.search("".join(value)):
        return sorted(value, key=lambda key: key.encode("utf-16-be"))
    return sorted(value)


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


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """The canonical name of each of `names`; those that would share one keep their own, so that none is mistaken."""
    found = {name: canonical_name(name) for name in names}
    counts = Counter(found.values())
    return {name: canonical if counts[canonical] == 1 else name for name, canonical in found.items()}


def is_buffer(name: str) -> bool:
    """Whether `name` is a computed buffer that some versions save and others do not."""
    return name.endswith(BUFFERS)
