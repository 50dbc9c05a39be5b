"""The structures of decoder.c as ctypes sees them. Knows their order and nothing else."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

PARTS, ROPES = 3, 2
ABSENT = 2**31 - 1


class Matrix(Structure):
    _fields_ = (
        ("tiles", c_void_p),
        ("bias", c_void_p),
        ("units", c_int32),
        ("strips", c_int32),
        ("first", c_int32 * PARTS),
        ("interleaved", c_int32),
    )


class Low(Structure):
    _fields_ = (("a", c_void_p), ("b", c_void_p), ("gain", c_void_p), ("rank", c_int32), ("units", c_int32))


class Layer(Structure):
    _fields_ = (
        ("qkv", Matrix),
        ("o", Matrix),
        ("glu", Matrix),
        ("down", Matrix),
        ("norm_in", c_void_p),
        ("norm_mlp", c_void_p),
        ("norm_q", c_void_p),
        ("norm_k", c_void_p),
        ("norm_attended", c_void_p),
        ("norm_fed", c_void_p),
        ("rope", c_int32),
        ("window", c_int32),
    )


class Model(Structure):
    _fields_ = (
        ("bf16", c_int32),
        ("threads", c_int32),
        ("layers", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("inner", c_int32),
        ("vocabulary", c_int32),
        ("gelu", c_int32),
        ("eps", c_float),
        ("score_scale", c_float),
        ("score_cap", c_float),
        ("logit_cap", c_float),
        ("embedding_scale", c_float),
        ("rope_scale", c_float),
        ("layer", POINTER(Layer)),
        ("embedding", Matrix),
        ("head", Matrix),
        ("norm_out", c_void_p),
        ("frequencies", c_void_p * ROPES),
    )


class Segment(Structure):
    _fields_ = (
        ("memory", c_void_p),
        ("low", c_void_p),
        ("capacity", c_int64),
        ("start", c_int32),
        ("count", c_int32),
        ("outputs", c_int32),
        ("reserved", c_int32),
    )


SIZES = tuple(ctypes.sizeof(kind) for kind in (Matrix, Low, Layer, Model, Segment))
