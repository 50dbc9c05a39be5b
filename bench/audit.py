"""How long the audit takes on an adapter of 84 MB with 448 tensors (r=16, bf16, all linear modules of an 8-billion Llama).

One table: inside the process the best of `RUNS` runs, for whole commands the best of as many processes. `make bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parents[1]
RUNS = 5
LAYERS, RANK, WIDTH, INNER, HEADS = 32, 16, 4096, 14336, 1024
MODULES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (HEADS, WIDTH), "self_attn.v_proj": (HEADS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
COMMAND = "import sys; sys.argv[0] = 'adreg'; from adreg.cli.app import main; main()"
NO_TORCH = (
    "import sys; from pathlib import Path; from adreg.audit.run import Speed, judge; from adreg.audit.subject import Subject; "
    "from adreg.formats.adapters.inspection import inspect_folder; "
    "judge(Subject(inspect_folder(Path(sys.argv[1]))), Speed.FULL); "
    "print('torch' in sys.modules)"
)
sys.path.insert(0, str(ROOT))


def main() -> None:
    from bench.spine import header

    with TemporaryDirectory() as place:
        folder = build(Path(place) / "adapter")
        size = (folder / "adapter_model.safetensors").stat().st_size
        print(header())
        print(f"{size / 1e6:.1f} MB, {2 * len(MODULES) * LAYERS} tensors{'':27}seconds   budget")
        for name, budget, work in cases(folder):
            seconds = best(work)
            print(f"{name:48}{seconds:8.3f} {budget:8.3f}   {'' if seconds <= budget else 'OVER'}", flush=True)
        print(f"torch imported: {run(NO_TORCH, str(folder)).strip()}")


def build(folder: Path) -> Path:
    """Write the adapter, with random values."""
    import numpy as np

    from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

    folder.mkdir()
    random = np.random.default_rng(0)
    specs = []
    for layer in range(LAYERS):
        for module, (out, inner) in MODULES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            specs += [TensorSpec(f"{name}.lora_A.weight", "BF16", (RANK, inner))]
            specs += [TensorSpec(f"{name}.lora_B.weight", "BF16", (out, RANK))]
    with (folder / "adapter_model.safetensors").open("wb") as file:
        writer = SafetensorsWriter(file, specs)
        for spec in specs:
            values = random.normal(0, 0.02, spec.shape).astype(np.float32)
            writer.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        writer.finish()
    targets = sorted(module.rpartition(".")[2] for module in MODULES)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": targets, "task_type": "CAUSAL_LM"}
    named = {"base_model_name_or_path": "example/llama-8b", "revision": "0" * 40, "peft_version": "0.21.2"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **named}))
    return folder


def cases(folder: Path) -> list[tuple[str, float, Callable[[], object]]]:
    """Name, budget in seconds and work of every line of the table."""
    from adreg.audit.run import Speed, judge
    from adreg.audit.subject import Subject
    from adreg.formats.adapters.inspection import inspect_folder

    def audit(speed: Speed) -> Callable[[], object]:
        return lambda: judge(Subject(inspect_folder(folder)), speed)

    return [
        ("header-only, inside the process", 0.020, audit(Speed.HEADER)),
        ("full, inside the process", 1.0, audit(Speed.FULL)),
        ("adreg audit DIR --headers", 0.6, lambda: run(COMMAND, "audit", str(folder), "--headers")),
        ("adreg audit DIR", 1.6, lambda: run(COMMAND, "audit", str(folder))),
    ]


def run(code: str, *arguments: str) -> str:
    """The standard output of a fresh process."""
    asked = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return asked.stdout


def best(work: Callable[[], object]) -> float:
    """The shortest of RUNS runs, in seconds."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
