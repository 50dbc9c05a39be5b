"""Hostile files through the whole audit, in a process of 512 MB: `python -m tests.audit.fuzzing headers 7 500`.

Prints one line of JSON with what was counted and every fault. A fault is an exception, a second spent on one file, a file
that adreg takes and the safetensors library refuses or reads otherwise, an unpickling, or an import that a file asked for.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.audit.hostile import config_file, header_file, sound

LIMIT = 512 << 20
SECONDS = 1.0
SAMPLES = ("model.layers.{}.self_attn.q_proj", "transformer.h.{}.mlp.c_fc", "model.layers.{}.mlp.experts.{}.down_proj")


class Slow(Exception):
    """More than `SECONDS` on one file."""


def ring(*_: object) -> None:
    raise Slow


def watch(faults: list[str]) -> None:
    """Tell of every class that is unpickled, and of every import of a name that only a hostile file has."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" or (event == "import" and "evil" in str(arguments[0])):
            faults.append(f"{event} {arguments[:2]}")

    sys.addaudithook(hook)


def audited(files: dict[str, Path], counted: Counter[str]) -> None:
    """The whole audit of the files; what is accepted must be read as the safetensors library reads it."""
    from adreg.audit.run import judge
    from adreg.audit.subject import Subject
    from adreg.formats.adapters.inspection import inspect_files

    subject = Subject(inspect_files(files))
    report = judge(subject)
    counted.update({finding.rule for finding in report.findings} or {"clean"})
    if subject.inspection.weights_sound:
        counted["accepted weights"] += 1
        same_as_the_library(files["adapter_model.safetensors"].read_bytes(), subject.tensors)
    if subject.inspection.config.config is not None:
        counted["accepted configurations"] += 1
    if not any(finding.rule in ("K-CFG-5", "K-CFG-1") for finding in report.findings):
        run_as_peft(subject.raw)


def same_as_the_library(raw: bytes, tensors: Any) -> None:
    from safetensors import deserialize

    theirs = {name: (view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in deserialize(raw)}
    ours = {name: (view.dtype, view.shape, bytes(view.data)) for name, view in tensors.items()}
    if theirs != ours:
        raise AssertionError(f"read otherwise than by safetensors: {sorted(set(theirs) ^ set(ours))}")


def run_as_peft(raw: dict[str, Any]) -> None:
    """Match the expressions that the audit lets through against 200 modules, as PEFT does."""
    names = [sample.format(number, number) for number in range(70) for sample in SAMPLES]
    from adreg.formats.adapters.values import FRAMES

    fields = ("target_modules", "exclude_modules", "layers_pattern")
    written = {field: raw[field] for field in fields if isinstance(raw.get(field), str)}
    expressions = [FRAMES.get(field, "{}").replace("{}", text) for field, text in written.items()]
    for field in ("rank_pattern", "alpha_pattern"):
        expressions += [rf"(.*\.)?({key})" for key in raw.get(field) or ()] if raw.get("peft_type") == "LORA" else []
    for expression in expressions:
        for name in names:
            re.fullmatch(expression, name)


def fuzz(make: Callable[[Random], bytes], target: Path, files: dict[str, Path], random: Random, count: int) -> dict[str, Any]:
    """Audit `count` files of `make`, each in the place of `target`."""
    counted, faults, slowest = Counter[str](), list[str](), 0.0
    watch(faults)
    for number in range(count):
        content = make(random)
        target.unlink()
        target.write_bytes(content)
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            audited(files, counted)
        except BaseException as error:  # noqa: BLE001 - every one of them is what is looked for
            faults.append(f"#{number}: {type(error).__name__} {error} {content[:400]!r}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - began)
    return {"faults": faults[:20], "count": count, "slowest": slowest, "peak_kb": peak_kilobytes(), "rules": dict(counted)}


def peak_kilobytes() -> int:
    """The most memory that this process held; what the system counts for a child begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def main(kind: str, seed: int, count: int) -> None:
    """Run `count` files of `kind` ("headers" or "configs") from `seed`."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    signal.signal(signal.SIGALRM, ring)
    with TemporaryDirectory() as place:
        files = {name: Path(place) / name for name in ("adapter_config.json", "adapter_model.safetensors")}
        header = json.dumps(good := sound(Random(0))).encode()
        files["adapter_model.safetensors"].write_bytes(len(header).to_bytes(8, "little") + header + bytes(64 * len(good)))
        files["adapter_config.json"].write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}')
        if kind == "headers":
            told = fuzz(header_file, files["adapter_model.safetensors"], files, Random(seed), count)
        else:
            told = fuzz(config_file, files["adapter_config.json"], files, Random(seed), count)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
