"""Rotary position embeddings: the frequencies that a configuration asks for. Knows three kinds and refuses others.

Source: transformers/modeling_rope_utils.py, and the reports of Llama 3.1 (`llama3`) and of kaiokendev (`linear`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adreg.errors import UnsupportedError
from adreg.formats.bases.modelconfig import rope
from adreg.formats.dtypes import Float32
from adreg.formats.strictjson import JsonObject

FULL, SLIDING = "full_attention", "sliding_attention"
KNOWN = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}


@dataclass(frozen=True, eq=False)
class Rope:
    """`frequencies` (head_dim / 2,) in radians a position."""

    frequencies: Float32


def ropes(fields: JsonObject, head_dim: int) -> dict[str, Rope]:
    """The rope of each type of layer, or one for all. Raises `UnsupportedError` for a type that is not computed here."""
    given = fields.get("rope_parameters")
    if isinstance(given, dict) and (FULL in given or SLIDING in given):
        return {kind: _rope({"rope_parameters": one}, head_dim) for kind, one in sorted(given.items()) if one}
    if "rope_local_base_freq" in fields:  # as Gemma 3 wrote it before transformers 5
        wide = {"rope_theta": fields.get("rope_theta") or 1e6, "rope_scaling": fields.get("rope_scaling")}
        local = {"rope_theta": fields["rope_local_base_freq"] or 1e4}
        return {FULL: _rope(wide, head_dim), SLIDING: _rope(local, head_dim)}
    return {FULL: _rope(fields, head_dim)}


def _rope(fields: JsonObject, head_dim: int) -> Rope:
    found = rope(fields)
    kind = found.pop("rope_type")
    theta = found.pop("rope_theta")
    if found.get("partial_rotary_factor") == 1:
        found.pop("partial_rotary_factor")
    if kind not in KNOWN or set(found) != KNOWN[kind]:
        odd = sorted(set(found) ^ KNOWN.get(kind, set()))
        raise UnsupportedError(f"rope_type={kind!r} with {', '.join(odd) or 'nothing'} in the native engine")
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float32(1) / np.power(np.float32(theta), exponents)).astype(np.float32)
    if kind == "linear":
        frequencies = frequencies / np.float32(found["factor"])
    if kind == "llama3":
        frequencies = _llama3(frequencies, found)
    return Rope(np.ascontiguousarray(frequencies, np.float32))


def _llama3(frequencies: Float32, parameters: JsonObject) -> Float32:
    """Long waves are slowed down by `factor`, short ones are kept, those between are mixed."""
    factor, low, high = (float(parameters[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    old = float(parameters["original_max_position_embeddings"])
    turns = old * frequencies / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    mixed: Float32 = ((1 - share) * frequencies / factor + share * frequencies).astype(np.float32)
    return mixed
