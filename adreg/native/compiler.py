"""A C file as a loaded library: compiled for this processor at first use and kept in the user's cache folder.

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
from pathlib import Path

from adreg.errors import StorageError, UnsupportedError
from adreg.formats.atomic import atomic_file

SHARED = Path(__file__).with_name("c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-std=gnu11", "-shared", "-fPIC", "-pthread")
COMPILERS = ("cc", "gcc", "clang")
MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
TIMEOUT = 120
FULL = (errno.ENOSPC, errno.EDQUOT)
log = logging.getLogger("adreg.native")


def compiled(source: Path, *sizes: int) -> ctypes.CDLL:
    """The library of the C file `source`, compiled unless the cache has it; it may include what lies beside it and in `c/`.

    `sizes` are those of the structures that it shares with Python, as it tells them in `adreg_sizes`. Raises
    `UnsupportedError` where it cannot be had, `StorageError`.
    """
    if sys.byteorder != "little" or platform.machine() not in MACHINES or os.name != "posix":
        raise UnsupportedError(f"native code on {platform.system()} {platform.machine()}")
    loaded = _loaded(source, _compiler())
    found = tuple((ctypes.c_int32 * len(sizes)).in_dll(loaded, "adreg_sizes"))
    if found != sizes:
        raise UnsupportedError(f"a compiler that lays structures out as {found} bytes, not {sizes},")
    return loaded


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise UnsupportedError("native code without a C compiler", "install gcc or clang")
    return found


def _loaded(source: Path, compiler: str) -> ctypes.CDLL:
    try:
        return _from(source, _cache_folder(), compiler)
    except StorageError as error:
        log.warning("%s is compiled for this process alone: %s", source.name, error)
    try:
        with tempfile.TemporaryDirectory(prefix="adreg-") as private:
            return _from(source, Path(private), compiler)
    except OSError as error:
        raise StorageError("a temporary folder", error.strerror or str(error)) from error


def _from(source: Path, folder: Path, compiler: str) -> ctypes.CDLL:
    """The library in `folder`, compiled unless it is there. Raises `StorageError` where the folder does not take it."""
    target = folder / f"{source.stem}-{_identity(source, compiler)}.so"
    try:
        if not target.exists():
            with atomic_file(target) as partial:
                _compile(source, compiler, partial)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise StorageError(folder, error.strerror or str(error)) from error


def _compile(source: Path, compiler: str, target: Path) -> None:
    """Write `target`, and nothing elsewhere. Raises `StorageError` where the disk is full, `UnsupportedError` for all else."""
    command = [compiler, *FLAGS, f"-I{SHARED}", str(source), "-o", str(target), "-lm"]
    environment = {**os.environ, "TMPDIR": str(target.parent), "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"native code with {compiler}, which fails ({error}),") from error
    if any(os.strerror(code) in done.stderr for code in FULL):
        raise StorageError(target.parent, os.strerror(errno.ENOSPC))
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        raise UnsupportedError(f"native code with {compiler}, which fails ({why}),")


def _identity(source: Path, compiler: str) -> str:
    """What the result depends on: the sources, the compiler's version, the flags, and what this processor can do."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=TIMEOUT, check=False).stdout
    folders = (source.parent, SHARED)
    sources = b"\0".join(file.read_bytes() for folder in folders for file in sorted(folder.glob("*.[ch]")))
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
