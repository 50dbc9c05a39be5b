"""llama.cpp's own `llama_model_quantize` as the reference, called in a process of its own.

`ADREG_QUANTISER_ORACLE` names a folder with llama.cpp's shared libraries; the `bins/linux-x64` of the npm package
`@node-llama-cpp/linux-x64` 3.22.1 is one. No Python package carries that function.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("ADREG_QUANTISER_ORACLE") or Path(__file__).parents[2] / ".venv" / "quantiser-oracle")
needs_quantiser = pytest.mark.skipif(not list(FOLDER.glob("libllama*.so")), reason=f"llama.cpp's quantiser is not in {FOLDER}")


class Parameters(ctypes.Structure):
    """`llama_model_quantize_params` of llama.h: the fields up to those that are set here, and room for the rest."""

    _fields_ = (("threads", ctypes.c_int32), ("file_type", ctypes.c_int), ("rest", ctypes.c_byte * 120))


def quantise_file(given: Path, output: Path, file_type: int) -> Path:
    """What llama.cpp makes of the GGUF file `given` as a file of `file_type`."""
    command = [sys.executable, "-m", "tests.export.quantiser", str(given), str(output), str(file_type)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def main(given: str, output: str, file_type: str) -> None:
    for name in ("libggml-base", "libggml-cpu-x64", "libggml.", "libllama."):
        library = ctypes.CDLL(str(next(FOLDER.glob(f"{name}*.so"))), ctypes.RTLD_GLOBAL)
    defaults = library.llama_model_quantize_default_params
    defaults.restype = Parameters
    parameters = defaults()
    parameters.threads, parameters.file_type = 2, int(file_type)
    quantise = library.llama_model_quantize
    quantise.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    sys.exit(quantise(given.encode(), output.encode(), ctypes.byref(parameters)))


if __name__ == "__main__":
    main(*sys.argv[1:])
