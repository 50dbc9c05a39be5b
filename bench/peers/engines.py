"""The start commands of adreg and its peers, as `bench/README.md` tells them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.load.dialects import LlamaCpp, OpenAI
from bench.peers.engine import Engine
from bench.peers.world import NAME, World

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("ADREG_BENCH_PEERS") or ROOT / ".venv" / "peers")
VLLM = PEERS / "vllm" / "bin" / "vllm"
LLAMA_SERVER = PEERS / "llama.cpp" / "llama-server"
SEQUENCES, SLOTS, CONTEXT = 8, 16, 1024
THREADS = os.cpu_count() or 1


def adreg(world: World, name: str, executor: str) -> Engine:
    """With the executor named, for one that cannot run shall fail and not be measured as another."""

    def command(port: int) -> list[str]:
        limits = ["--max-adapters", str(SLOTS), "--max-running", str(SEQUENCES), "--executor", executor]
        return [sys.executable, "-m", "adreg", "serve", "--base", NAME, "--port", str(port), *limits]

    environment = {"ADREG_HOME": str(world.home), "PYTHONPATH": str(ROOT)}
    return Engine(name, OpenAI(NAME), command, environment, ready="/ready")


def vllm(world: World) -> Engine:
    def command(port: int) -> list[str]:
        modules = [f"{name}={world.adapter(name)}" for name in world.adapters]
        return [
            str(VLLM), "serve", str(world.base), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
            "--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(SEQUENCES), "--enable-lora",
            "--max-loras", str(SLOTS), "--max-cpu-loras", str(len(modules)), "--max-lora-rank", "8", "--lora-modules", *modules,
        ]  # fmt: skip

    # by itself it would leave one of two processors unused
    bound = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{THREADS - 1}", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return Engine("vllm", OpenAI(NAME), command, bound | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"})


def llama_cpp(world: World, quant: str) -> Engine:
    """llama.cpp's server: the native build where there is one, else the one in xllamacpp's wheel."""
    adapters = [str(world.gguf_adapter(name)) for name in world.adapters]

    def command(port: int) -> list[str]:
        if not LLAMA_SERVER.exists():
            return [sys.executable, "-m", "bench.peers.xllamacpp_server", str(world.gguf(quant)), str(port), *adapters]
        return [
            str(LLAMA_SERVER), "-m", str(world.gguf(quant)), "--host", "127.0.0.1", "--port", str(port), "-np", str(SEQUENCES),
            "-t", str(THREADS), "-c", str(SEQUENCES * CONTEXT), "--lora", ",".join(adapters), "--lora-init-without-apply",
        ]  # fmt: skip

    return Engine(f"llama.cpp {quant}", LlamaCpp(world.adapters), command, {"PYTHONPATH": str(ROOT)})


def engines(world: World) -> Mapping[str, Engine]:
    """Every engine that speaks HTTP, by the name it has on the command line; those that are not installed are left out."""
    found = {
        "adreg": adreg(world, "adreg", "native"),
        "adreg-general": adreg(world, "adreg general", "general"),
        "llamacpp": llama_cpp(world, "bf16"),
        "llamacpp-q4": llama_cpp(world, "q4_k_m"),
    }
    return found | ({"vllm": vllm(world)} if VLLM.exists() else {})
