"""Pushing an adapter of 84 MB beside `cp` and `sync`: seconds, ratio and peak memory; the best of `RUNS` runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

ADREG = str(Path(sys.executable).with_name("adreg"))
RUNS = 3

HIDDEN, INNER, KEYS, RANK, LAYERS = 4096, 14336, 1024, 16, 32
TARGETS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, KEYS), "self_attn.v_proj": (HIDDEN, KEYS),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (HIDDEN, INNER), "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}  # fmt: skip

INSIDE = """
import sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.settings import Settings
taken = []
for _ in range(4):
    with TemporaryDirectory() as home:
        began = time.perf_counter()
        Registry(Settings(Path(home))).adapters.push(plan_push(Path(sys.argv[1])), "big", None, None)
        taken.append(time.perf_counter() - began)
print(min(taken))
"""


def main() -> None:
    with TemporaryDirectory() as place:
        scratch = Path(place)
        print(f"{'':46}{'adreg':>9}{'peer':>9}{'ratio':>8}{'memory':>9}   peer")
        pushing(scratch)


def pushing(scratch: Path) -> None:
    """An 84 MB adapter (r=16, all linear layers of an 8B Llama, bf16) into an empty registry."""
    adapter = big_adapter(scratch / "adapter")
    home = scratch / "home"

    def fresh() -> None:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(scratch / "copy", ignore_errors=True)

    copied = best(lambda: shell(f"cp -r {adapter} {scratch}/copy && sync {scratch}/copy/* {scratch}/copy"), fresh)
    whole, memory = command([ADREG, "push", str(adapter), "big", "-q"], home, fresh)
    row("push of 84 MB, whole process", whole, copied, memory, "cp and sync")
    told = subprocess.run([sys.executable, "-c", INSIDE, str(adapter)], check=True, capture_output=True, text=True).stdout
    row("push of 84 MB, inside a process that runs", float(told), copied, memory, "cp and sync")


def big_adapter(folder: Path) -> Path:
    """A random adapter of 84 MB; its tensors are small normal numbers in bf16."""
    folder.mkdir()
    shapes = {}
    for layer in range(LAYERS):
        for module, (inner, outer) in TARGETS.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            shapes[f"{prefix}.lora_A.weight"], shapes[f"{prefix}.lora_B.weight"] = (RANK, inner), (outer, RANK)
    specs = [TensorSpec(name, "BF16", shapes[name]) for name in sorted(shapes)]
    dice = np.random.default_rng(0)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for spec in specs:
            values = dice.standard_normal(spec.shape, dtype=np.float32) * np.float32(0.02)
            writer.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        writer.finish()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "bias": "none"}
    config["target_modules"] = [module.rpartition(".")[2] for module in TARGETS]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def row(name: str, ours: float, peer: float, memory: float, peer_name: str) -> None:
    print(f"{name:46}{ours:8.3f}s{peer:8.3f}s{peer / ours:7.2f}x{memory:6.0f} MB   {peer_name}", flush=True)


def best(work: Callable[[], object], before: Callable[[], None] = lambda: None) -> float:
    """The shortest of RUNS runs of `work`, in seconds."""
    return min(timed(work, before) for _ in range(RUNS))


def timed(work: Callable[[], object], before: Callable[[], None]) -> float:
    before()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def command(words: list[str], home: Path, before: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """A command of adreg: its shortest time in seconds, and the peak memory of the largest process so far in MB."""
    environment = {**os.environ, "ADREG_HOME": str(home)}
    seconds = best(lambda: subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL), before)
    return seconds, peak(words, environment, before)


def peak(words: list[str], environment: dict[str, str], before: Callable[[], None]) -> float:
    """The peak memory of one more run of a command in MB, measured by a parent that has no other child."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    before()
    found = subprocess.run([sys.executable, "-c", code, *words], env=environment, check=True, capture_output=True, text=True)
    return int(found.stdout) / (1024 if sys.platform == "linux" else 1024 * 1024)


def shell(text: str) -> None:
    subprocess.run(["sh", "-c", text], check=True)


if __name__ == "__main__":
    main()
