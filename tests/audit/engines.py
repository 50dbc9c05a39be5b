"""What PEFT and real llama.cpp do with an adapter: whether they load it and give its training's answers again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.audit.variants import IDS, Made, log_probabilities
from tests.export.oracle import FOLDER

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("ADREG_LORA_ORACLE") or ROOT / ".venv" / "lora-oracle")
HERE = Path(__file__).parent
TOLERANCE, TOP = 0.01, 40
needs_lora_oracle = pytest.mark.skipif(
    not ((ORACLE / "convert_lora_to_gguf.py").is_file() and (FOLDER / "sentencepiece").is_dir()),
    reason=f"llama.cpp's LoRA converter is not in {ORACLE}; `make unit` puts it there",
)


@dataclass(frozen=True)
class Answer:
    """Whether an engine took an adapter, and what it said or how far its log probabilities lie off (nats)."""

    took: bool
    said: str


def ask_peft(made: Made, base: Path) -> Answer:
    """Load the adapter with PEFT and compare."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), made.folder).eval()
            off = float(np.abs(log_probabilities(model) - made.trained).max())
        except Exception as error:  # noqa: BLE001 - whatever PEFT raises is its answer
            return Answer(False, f"{type(error).__name__}: {str(error)[:100]}")
    return Answer(off < TOLERANCE, f"off by {off:.5f}")


def convert(jobs: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """What went wrong with each job, a script of the oracle with its arguments."""
    command = [sys.executable, str(HERE / "batch_convert.py")]
    environment = os.environ | {"PYTHONPATH": f"{ORACLE}:{ORACLE / 'gguf-py'}:{FOLDER}", "OMP_NUM_THREADS": "1"}
    listed = json.dumps([[str(ORACLE / script), list(arguments)] for script, arguments in jobs])
    done = subprocess.run(command, env=environment, input=listed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[str] = json.loads(done.stdout)
    return answers


def convert_base(base: Path, output: Path) -> tuple[str, list[str]]:
    """The job that makes a GGUF file of the checkpoint `base`."""
    return "convert_hf_to_gguf.py", [str(base), "--outtype", "f32", "--outfile", str(output)]


def convert_lora(made: Made, base: Path, output: Path) -> tuple[str, list[str]]:
    """The job that makes a GGUF LoRA of an adapter."""
    return "convert_lora_to_gguf.py", [str(made.folder), "--base", str(base), "--outtype", "f32", "--outfile", str(output)]


def run_llamacpp(base: Path, lora: Path, ids: Sequence[int] = IDS) -> tuple[str, list[dict[str, float]] | None]:
    """What llama.cpp complains of, or the likeliest tokens after every prefix of `ids` with the LoRA on the base."""
    listed = ",".join(map(str, ids))
    command = [sys.executable, str(HERE / "lora_child.py"), str(base), str(lora), listed, str(TOP)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        return next((line.partition(" E ")[2] for line in lines if " E " in line), lines[-1]).strip()[:160], None
    return "", json.loads(done.stdout)


def ask_llamacpp(made: Made, base: Path, lora: Path) -> Answer:
    """Run the LoRA on the base, both GGUF files, and compare."""
    said, found = run_llamacpp(base, lora)
    if found is None:
        return Answer(False, said)
    first = made.variant.first
    pairs = zip(found[first:], made.trained[first:], strict=True)
    off = max(abs(value - float(row[int(token)])) for likely, row in pairs for token, value in likely.items())
    return Answer(off < TOLERANCE, f"off by {off:.5f}")
