"""decoder.c as a loaded library: compiled for this processor at first use and kept in the user's cache folder.

Knows compilers and files; refuses a cache folder that others may write. Where nothing can be kept there, each process
compiles for itself, in a private folder that is gone once the library is loaded.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from adreg.errors import StorageError, UnsupportedError
from adreg.formats.atomic import atomic_file
from adreg.serve.native.structs import SIZES, Model, Segment

SOURCES = Path(__file__).with_name("c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-std=gnu11", "-shared", "-fPIC", "-pthread")
COMPILERS = ("cc", "gcc", "clang")
MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
TIMEOUT = 120
FULL = (errno.ENOSPC, errno.EDQUOT)
log = logging.getLogger("adreg.serve")


@cache
def library() -> ctypes.CDLL:
    """The library, compiled unless the cache has it. Raises `UnsupportedError` where it cannot be had, `StorageError`."""
    if sys.byteorder != "little" or platform.machine() not in MACHINES or os.name != "posix":
        raise UnsupportedError(f"the native engine on {platform.system()} {platform.machine()}")
    loaded = _loaded(_compiler())
    sizes = tuple((ctypes.c_int32 * len(SIZES)).in_dll(loaded, "adreg_sizes"))
    if sizes != SIZES:
        raise UnsupportedError(f"a compiler that lays structures out as {sizes} bytes, not {SIZES},")
    loaded.adreg_open.restype = ctypes.c_void_p
    loaded.adreg_open.argtypes = (ctypes.POINTER(Model),)
    loaded.adreg_close.restype = None
    loaded.adreg_close.argtypes = (ctypes.c_void_p,)
    loaded.adreg_step.restype = ctypes.c_int
    loaded.adreg_step.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(Segment),
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    return loaded


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise UnsupportedError("the native engine without a C compiler", "install gcc or clang")
    return found


def _loaded(compiler: str) -> ctypes.CDLL:
    try:
        return _from(_cache_folder(), compiler)
    except StorageError as error:
        log.warning("the native engine is compiled for this process alone: %s", error)
    try:
        with tempfile.TemporaryDirectory(prefix="adreg-") as private:
            return _from(Path(private), compiler)
    except OSError as error:
        raise StorageError("a temporary folder", error.strerror or str(error)) from error


def _from(folder: Path, compiler: str) -> ctypes.CDLL:
    """The library in `folder`, compiled unless it is there. Raises `StorageError` where the folder does not take it."""
    target = folder / f"decoder-{_identity(compiler)}.so"
    try:
        if not target.exists():
            with atomic_file(target) as partial:
                _compile(compiler, partial)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error


def _compile(compiler: str, target: Path) -> None:
    """Write `target`, and nothing elsewhere. Raises `StorageError` where the disk is full, `UnsupportedError` for all else."""
    command = [compiler, *FLAGS, str(SOURCES / "decoder.c"), "-o", str(target), "-lm"]
    environment = {**os.environ, "TMPDIR": str(target.parent), "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"the native engine with {compiler}, which fails ({error}),") from error
    if any(os.strerror(code) in done.stderr for code in FULL):
        raise StorageError(target.parent, os.strerror(errno.ENOSPC))
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        raise UnsupportedError(f"the native engine with {compiler}, which fails ({why}),")


def _identity(compiler: str) -> str:
    """What the result depends on: the sources, the compiler's version, the flags, and what this processor can do."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=TIMEOUT, check=False).stdout
    sources = b"\0".join(file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]")))
    parts = (sources, version, " ".join(FLAGS).encode(), _processor().encode())
    return hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))}
    return "\n".join([platform.platform(), *sorted(told)])


def _cache_folder() -> Path:
    """The user's own folder for compiled code. Raises `StorageError` where it cannot be made or is open to others."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("adreg", appauthor=False)) / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error
    status = folder.stat(follow_symlinks=False)
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(folder, "others may write there, so compiled code cannot be kept in it")
    return folder
