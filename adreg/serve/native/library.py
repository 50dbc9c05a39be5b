"""decoder.c as a loaded library. Knows its functions, not what they compute."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_void_p
from functools import cache
from pathlib import Path

from adreg.native.compiler import compiled
from adreg.serve.native.structs import SIZES, Model, Segment

SOURCE = Path(__file__).parent / "c" / "decoder.c"


@cache
def library() -> ctypes.CDLL:
    """The library, compiled unless the cache has it. Raises `UnsupportedError` where it cannot be had, `StorageError`."""
    loaded = compiled(SOURCE, *SIZES)
    loaded.adreg_open.restype, loaded.adreg_open.argtypes = c_void_p, (POINTER(Model),)
    loaded.adreg_close.restype, loaded.adreg_close.argtypes = None, (c_void_p,)
    loaded.adreg_step.restype = c_int
    loaded.adreg_step.argtypes = (c_void_p, POINTER(Segment), c_int, c_void_p, c_int, c_void_p)
    return loaded
