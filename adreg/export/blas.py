"""Keeps the linear algebra of numpy to the thread that asks for it, while several threads ask at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# how numpy's wheels and other builds of OpenBLAS call the function after `set_` or `get_`
NAMES = (("scipy_openblas_", "64_"), ("scipy_openblas_", ""), ("openblas_", "64_"), ("openblas_", ""))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Within it the OpenBLAS that numpy carries starts no threads of its own. Any other library is left as it is."""
    counts = {library: library.get() for library in _libraries()}
    for library in counts:
        library.set(1)
    try:
        yield
    finally:
        for library, count in counts.items():
            library.set(count)


class _OpenBlas:
    """The number of threads of a library."""

    def __init__(self, loaded: ctypes.CDLL, before: str, after: str) -> None:
        self.get = getattr(loaded, f"{before}get_num_threads{after}")
        self.set = getattr(loaded, f"{before}set_num_threads{after}")


def _libraries() -> Iterator[_OpenBlas]:
    package = Path(np.__file__).parent
    for path in [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]:
        loaded = ctypes.CDLL(str(path))
        for before, after in NAMES:
            if hasattr(loaded, f"{before}set_num_threads{after}"):
                yield _OpenBlas(loaded, before, after)
                break
