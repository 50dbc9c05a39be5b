"""What a run computes with: versions, machine, process and the code around it. Knows no training."""

from __future__ import annotations

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import adreg
from adreg.train.record.git import git_state

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")
TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "fma", "asimd", "bf16", "sve", "i8mm")


def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    found = {name: _version(name) for name in PACKAGES}
    return {"adreg": adreg.__version__, "python": platform.python_version(), **{name: v for name, v in found.items() if v}}


def machine(**settings: Any) -> dict[str, Any]:
    """The platform, and the `settings` that the run took on it: device, threads, precision, attention and so on."""
    model, flags = _processor(Path("/proc/cpuinfo"))
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": model or platform.processor(),
        "flags": flags,
        "cpus": os.cpu_count(),
        **settings,
    }


def devices() -> dict[str, Any]:
    """The GPUs by name and what is set for repeatable arithmetic, as torch says; imports torch."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "gpus": [torch.cuda.get_device_name(index) for index in range(count)],
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.get_float32_matmul_precision() != "highest",
    }


def process() -> dict[str, Any]:
    """Who runs: pid and host."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def code(folder: Path) -> dict[str, Any]:
    """adreg's version, and commit and changed files of the git repository around `folder`, None where there is none."""
    return {"adreg": adreg.__version__, **git_state(folder)}


def memory() -> int | None:
    """The bytes that this process has in memory now, where the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int | None:
    """The bytes of memory that are free on this machine, or on its GPU."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in told.splitlines() if line.startswith("MemAvailable"))) * 1024
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor(cpuinfo: Path) -> tuple[str, list[str]]:
    """The processor's name and those of its abilities that change how fast or how exactly a run computes."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return "", []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", ""), [flag for flag in TELLING_FLAGS if flag in flags]
