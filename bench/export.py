"""Merging and exporting against PEFT, llama.cpp's converter and quantiser, and `cp`: time and memory. `make bench`.

The model is a random Llama of 1.17 billion parameters in three bf16 shards, the adapter a LoRA of rank 16 on all its
linear modules. Every step is a process of its own, imports included; the best of `RUNS` runs counts. `cp` leaves what
it wrote to the kernel, adreg waits until it is on the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.spine import header

ROOT = Path(__file__).parents[1]
ORACLE = ROOT / ".venv" / "oracle"
QUANTISER = Path(os.environ.get("ADREG_QUANTISER_ORACLE") or ROOT / ".venv" / "quantiser-oracle")
RUNS = 2
LAYERS = 22
Q4_K_M = 15  # the number of this file type in llama.cpp
OURS = "import sys; from pathlib import Path; from bench.spine import merge; merge(*map(Path, sys.argv[1:4]), *sys.argv[4:])"
PEFT = "import sys; from pathlib import Path; from bench.spine import peft_merge; peft_merge(*map(Path, sys.argv[1:]))"
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Cost:
    """What it took: seconds on the clock, seconds of processors, the largest resident memory of a process in bytes."""

    seconds: float
    processor: float
    memory: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.processor + other.processor, max(self.memory, other.memory))

    def __str__(self) -> str:
        return f"{self.seconds:7.1f} s{self.processor:8.1f} s{self.memory / 1e6:8.0f} MB"


def main() -> None:
    print(header())
    with TemporaryDirectory(dir=os.environ.get("ADREG_BENCH_DISK")) as place:
        model, deeper, out = Path(place) / "model", Path(place) / "deeper", Path(place) / "out"
        run("-m", "bench.bigllama", model, LAYERS)
        print(f"{'':34}{'clock':>9}{'cpu':>10}{'memory':>11}{'ratio':>9}", flush=True)
        copied = best(["cp", "-r", model / "base", out], out)
        merged = best(python("-c", PEFT, model / "base", model / "adapter", out), out, keep=Path(place) / "merged")
        for name, ours, peer, cost in cases(model, Path(place) / "merged", merged, out):
            show(f"adreg: {name}", ours)
            show(f"  {peer}", cost, ours)
            if name == "GGUF bf16":
                show("  cp of the base", copied, ours)
        shutil.rmtree(Path(place) / "merged")
        run("-m", "bench.bigllama", deeper, 2 * LAYERS)
        for quant in ("bf16", "q8_0"):
            show(f"adreg: GGUF {quant}, twice as deep", adreg(deeper, out, "gguf", quant))


def cases(model: Path, folder: Path, merged: Cost, out: Path) -> Iterator[tuple[str, Cost, str, Cost]]:
    """Name, our cost, the peer's name and its cost; `folder` is what PEFT merged at the cost of `merged`."""
    for quant in ("bf16", "q8_0"):
        peer = merged + best(convert(folder, out, quant), out)
        yield f"GGUF {quant}", adreg(model, out, "gguf", quant), "PEFT, save, convert", peer
    yield "safetensors", adreg(model, out, "safetensors"), "PEFT, save", merged
    if list(QUANTISER.glob("libllama*")):
        gguf = folder.with_suffix(".gguf")
        peer = merged + best(convert(folder, out, "bf16"), out, keep=gguf)
        peer += best(python("-m", "tests.export.quantiser", gguf, out, Q4_K_M), out)
        gguf.unlink()
        yield "GGUF q4_k_m", adreg(model, out, "gguf", "q4_k_m"), "PEFT, save, convert, quantise", peer
    else:
        show("adreg: GGUF q4_k_m", adreg(model, out, "gguf", "q4_k_m"))


def adreg(model: Path, out: Path, *how: str) -> Cost:
    output = out.with_suffix(".gguf") if how[0] == "gguf" else out
    return best(python("-c", OURS, model / "base", model / "adapter", output, *how), output)


def convert(folder: Path, out: Path, quant: str) -> Command:
    return python(ORACLE / "convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", quant)


def python(*arguments: object) -> Command:
    return [sys.executable, *map(str, arguments)]


def run(*arguments: object) -> None:
    subprocess.run(python(*arguments), cwd=ROOT, check=True)


def best(command: Command, output: Path, keep: Path | None = None) -> Cost:
    """The quickest of RUNS runs of `command`, which writes `output`; the last one's is moved to `keep`."""
    costs = []
    for number in range(RUNS):
        costs.append(measured(command))
        if keep and number == RUNS - 1:
            output.rename(keep)
        for left in output.parent.glob(f"{output.stem}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return min(costs, key=lambda cost: cost.seconds)


def measured(command: Command) -> Cost:
    """The cost of one process. This one stays small, for a child begins with the memory of its parent."""
    os.sync()
    oracle = any(str(ORACLE) in str(word) for word in command)
    environment = {**os.environ, "PYTHONPATH": str(ORACLE if oracle else ROOT)}
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        told = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {told.decode()[-2000:]}")
    seconds = time.perf_counter() - began
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def show(name: str, cost: Cost, ours: Cost | None = None) -> None:
    ratio = f"{cost.seconds / ours.seconds:8.1f}x" if ours else ""
    print(f"{name:34}{cost}{ratio}", flush=True)


if __name__ == "__main__":
    main()
