"""layer.c as a loaded library, and the threads that run it. Knows its functions, not what they compute."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, byref, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from threading import Lock

from adreg.native.compiler import compiled
from adreg.train.native.structs import SIZES, Layer, Pass

SOURCE = Path(__file__).parent / "c" / "layer.c"


@cache
def library() -> ctypes.CDLL:
    """The library, compiled unless the cache has it. Raises `UnsupportedError` where it cannot be had, `StorageError`."""
    loaded = compiled(SOURCE, *SIZES)
    loaded.adreg_open.restype, loaded.adreg_open.argtypes = c_void_p, (c_int,)
    loaded.adreg_close.restype, loaded.adreg_close.argtypes = None, (c_void_p,)
    loaded.adreg_kept.restype, loaded.adreg_kept.argtypes = c_int64, (POINTER(Layer), c_int)
    loaded.adreg_pass.restype, loaded.adreg_pass.argtypes = c_int, (c_void_p, POINTER(Layer), POINTER(Pass))
    return loaded


class Threads:
    """Threads that compute layers, one layer at a time, and the memory that they work in."""

    def __init__(self, count: int) -> None:
        self._library, self._lock = library(), Lock()
        self._engine = self._library.adreg_open(count)
        if not self._engine:
            raise MemoryError("no memory or no threads for native training")
        weakref.finalize(self, self._library.adreg_close, self._engine)

    def kept(self, layer: Layer, tokens: int) -> int:
        """Bytes that the way back needs from the way there."""
        return int(self._library.adreg_kept(byref(layer), tokens))

    def run(self, layer: Layer, one: Pass) -> None:
        """One layer, there or back."""
        with self._lock:
            failed = self._library.adreg_pass(self._engine, byref(layer), byref(one))
        if failed:
            raise MemoryError("no memory for native training: fewer tokens in a step (train.token_budget)")


@cache
def threads(count: int) -> Threads:
    """The `count` threads of this process."""
    return Threads(count)
