"""The structures of layer.c as ctypes sees them. Knows their order and nothing else."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p

SITES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = ((0, 1, 2), (3,), (4, 5), (6,))
"""Which sites read the same input."""


class Linear(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("a", c_void_p),
        ("b", c_void_p),
        ("da", c_void_p),
        ("db", c_void_p),
        ("scaling", c_float),
        ("rank", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("reserved", c_int32),
    )


class Layer(Structure):
    _fields_ = (
        ("linear", Linear * len(SITES)),
        ("norm_in", c_void_p),
        ("norm_mlp", c_void_p),
        ("eps", c_float),
        ("score_scale", c_float),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("inner", c_int32),
        ("reserved", c_int32),
    )


class Row(Structure):
    _fields_ = (("start", c_int32), ("count", c_int32), ("before", c_int32))


class Pass(Structure):
    _fields_ = (
        ("row", POINTER(Row)),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("x", c_void_p),
        ("y", c_void_p),
        ("dy", c_void_p),
        ("dx", c_void_p),
        ("kept", c_void_p),
        ("rows", c_int32),
        ("tokens", c_int32),
    )


SIZES = tuple(ctypes.sizeof(kind) for kind in (Linear, Layer, Row, Pass))
