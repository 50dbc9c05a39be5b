"""The fingerprint of a base beside `sha256sum` and the BLAKE3 library, in one table. Takes `--gigabytes 2.3`.

The base is random bf16 weights in three shards with SmolLM2's tokenizer; all files are in the page cache. `adreg base add`
and `sha256sum` are whole processes; the library's figure is BLAKE3 over the mapped files with all threads, and nothing
else. Every figure is the best of RUNS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from adreg.formats.safetensors_writer import TensorSpec

Figures = tuple[float, float]
ROOT = Path(__file__).parents[1]
RUNS, SHARDS, WIDTH, VOCABULARY = 5, 3, 2048, 49152
sys.path.insert(0, str(ROOT))
INSIDE = """
import sys, time
from pathlib import Path
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.bases.leaves import leaf_of
base = open_checkpoint(Path(sys.argv[1]))
began = time.perf_counter()
if sys.argv[2] == "leaves":
    for view in base.values():
        leaf_of(view)
else:
    fingerprint(base)
print(time.perf_counter() - began)
"""
LIBRARY = """
import sys, time
from pathlib import Path
from blake3 import blake3
began = time.perf_counter()
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.3)
    with TemporaryDirectory() as place:
        base, home = Path(place, "base"), Path(place, "home")
        builder = get_context("spawn").Process(target=build, args=(base, parser.parse_args().gigabytes))
        builder.start()  # on its own: a child's peak begins with its parent's
        builder.join()
        time.sleep(2.1)  # younger files are not remembered
        table(measure(base, home), size_of(base))


def measure(base: Path, home: Path) -> dict[str, Figures]:
    """What each row of the table took."""
    files = sorted(map(str, base.glob("*.safetensors")))
    look = [sys.executable, "-m", "adreg", "base", "add", str(base), "-q"]
    return {
        "sha256sum": best(lambda: process("sha256sum", *files)),
        "blake3 library, all threads": best(lambda: inside(LIBRARY, base)),
        "adreg: leaves of the weights": best(lambda: inside(INSIDE, base, "leaves")),
        "adreg: fingerprint, all ids": best(lambda: inside(INSIDE, base, "all")),
        "adreg base add, first look": best(lambda: process(*look, ADREG_HOME=mkdtemp(dir=base.parent))),
        "adreg base add, second look": best(lambda: process(*look, ADREG_HOME=str(home)), warm_up=True),
    }


def size_of(base: Path) -> int:
    return sum(path.stat().st_size for path in base.glob("*.safetensors"))


def header(size: int) -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    machine = (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
    return f"{machine}, commit {asked.stdout.strip()}, {size / 1e9:.2f} GB in {SHARDS} shards\n"


def processor() -> str:
    """What the machine calls its processor."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def table(rows: dict[str, Figures], size: int) -> None:
    """One line a figure: seconds, rate, how many times faster than sha256sum, share of the library's rate, peak memory."""
    sha256, library = (seconds for seconds, _ in list(rows.values())[:2])
    print(header(size))
    print(f"{'':30}{'seconds':>9}{'GB/s':>7}{'x sha256sum':>13}{'% of blake3':>13}{'peak MB':>9}")
    for name, (seconds, peak) in rows.items():
        rates = f"{size / 1e9 / seconds:7.2f}{sha256 / seconds:12.1f}x{100 * library / seconds:12.0f}%"
        print(f"{name:30}{seconds:9.3f}{rates}{peak:9.0f}")


def best(run: Callable[[], Figures], warm_up: bool = False) -> Figures:
    """The fewest seconds and the most memory of RUNS runs, after one that does not count where `warm_up`."""
    found = [run() for _ in range(RUNS + warm_up)][warm_up:]
    return min(seconds for seconds, _ in found), max(peak for _, peak in found)


def process(*command: str, **environment: str) -> Figures:
    """Wall seconds and peak megabytes of a whole process."""
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output = child.stdout.read() if child.stdout else b""
    _, status, usage = os.wait4(child.pid, 0)
    seconds, child.returncode = time.perf_counter() - began, status
    if status:
        sys.exit(f"{command[0]} failed: {(child.stderr.read() if child.stderr else b'').decode()}")
    said = output.decode().strip()
    return (float(said) if command[1:2] == ("-c",) else seconds), usage.ru_maxrss * unit() / 1e6


def unit() -> int:
    """Bytes in one of the kernel's units of peak memory."""
    return 1 if sys.platform == "darwin" else 1024


def inside(code: str, base: Path, *arguments: str) -> Figures:
    """Seconds that `code` itself says it took, and its process's peak."""
    return process(sys.executable, "-c", code, str(base), *arguments)


def build(folder: Path, gigabytes: float) -> None:
    """A checkpoint of about that size, of Llama's names, in `folder`."""
    import numpy as np

    from adreg.formats.safetensors_writer import SafetensorsWriter
    from tests.builders import unpack_tokenizer

    folder.mkdir()
    unpack_tokenizer(folder)
    specs = tensors(gigabytes)
    parts = {spec.name: place * SHARDS // len(specs) + 1 for place, spec in enumerate(specs)}
    where = {name: f"model-{part:05}-of-{SHARDS:05}.safetensors" for name, part in parts.items()}
    generator = np.random.default_rng(0)
    for file in sorted(set(where.values())):
        held = [spec for spec in specs if where[spec.name] == file]
        with (folder / file).open("wb") as stream:
            writer = SafetensorsWriter(stream, held, {"format": "pt"})
            for spec in held:
                writer.write(generator.bytes(spec.nbytes))
            writer.finish()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": 32}
    (folder / "config.json").write_text(json.dumps(config))


def tensors(gigabytes: float) -> list[TensorSpec]:
    """Embeddings and as many layers as fit."""
    from adreg.formats.safetensors_writer import TensorSpec

    shapes = {
        "input_layernorm": (WIDTH,), "mlp.down_proj": (WIDTH, 4 * WIDTH), "mlp.gate_proj": (4 * WIDTH, WIDTH),
        "mlp.up_proj": (4 * WIDTH, WIDTH), "post_attention_layernorm": (WIDTH,), "self_attn.k_proj": (WIDTH // 4, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH // 4, WIDTH),
    }  # fmt: skip
    embeddings = TensorSpec("model.embed_tokens.weight", "BF16", (VOCABULARY, WIDTH))
    layer = sum(TensorSpec(name, "BF16", shape).nbytes for name, shape in shapes.items())
    count = max(round((gigabytes * 1e9 - embeddings.nbytes) / layer), 1)
    names = ((f"model.layers.{number}.{name}.weight", shape) for number in range(count) for name, shape in shapes.items())
    return [embeddings, *(TensorSpec(name, "BF16", shape) for name, shape in names)]


if __name__ == "__main__":
    main()
