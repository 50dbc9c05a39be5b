"""The figures that serving and training are judged by, each beside what was measured. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from bench.peers.measure import Measured
from bench.trainers.job import Prepared, Trained

VLLM, PEFT, LLAMA_BF16, LLAMA_Q4 = "vllm", "PEFT batch", "llama.cpp bf16", "llama.cpp q4_k_m"


@dataclass(frozen=True)
class Wanted:
    """`value` is at least `bound`, or at most."""

    what: str
    value: float
    sign: str
    bound: float

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.sign == "≥" else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.what:63}{self.value:8.2f}   {self.sign} {self.bound:<6g}{'' if self.met else 'MISSED'}"


def wanted(found: Mapping[str, Measured], adapter_bytes: int) -> Iterator[Wanted]:
    """What can be said of adreg and those of its peers that ran."""
    ours = found["adreg"]
    yield from ratios(ours, found)
    yield from own(ours, adapter_bytes)


def ratios(ours: Measured, found: Mapping[str, Measured]) -> Iterator[Wanted]:
    def ratio(load: str, peers: tuple[str, ...], bound: float) -> Iterator[Wanted]:
        speeds = [found[peer].loads[load].output for peer in peers if peer in found]
        if speeds:
            what = f"{load}: output tok/s over {' or '.join(peers)}"
            yield Wanted(what, ours.loads[load].output / max(speeds), "≥", bound)

    yield from ratio("mixed-8", (VLLM,), 2.5)
    yield from ratio("mixed-8", (LLAMA_BF16, LLAMA_Q4), 2.2)
    yield from ratio("mixed-8", (PEFT,), 5)
    yield from ratio("base-8", (VLLM,), 1.3)
    yield from ratio("base-1", (VLLM,), 2)
    yield from ratio("base-1", (LLAMA_BF16,), 0.75)
    if VLLM in found:
        first = ours.loads["mixed-8"].ttft_p50 / found[VLLM].loads["mixed-8"].ttft_p50
        yield Wanted("mixed-8: median TTFT over vllm's", first, "≤", 0.5)


def own(ours: Measured, adapter_bytes: int) -> Iterator[Wanted]:
    """adreg against itself."""

    def percent(load: str, of: str, what: str = "output") -> float:
        part, whole = asdict(ours.loads[load])[what], asdict(ours.loads[of])[what]
        return 100 * float(part) / float(whole)

    yield Wanted("LoRA cost at 8 distinct adapters, % of base-8", 100 - percent("mixed-8", "base-8"), "≤", 25)
    yield Wanted("LoRA cost of prefill, %", 100 - percent("prefill-lora", "prefill-base", "prompt"), "≤", 10)
    yield Wanted("zipf-64 over 16 slots, % of mixed-8", percent("zipf-64", "mixed-8"), "≥", 80)
    yield Wanted("seconds until ready", ours.ready, "≤", 6)
    yield Wanted("isolation: answers as alone, %", 100 * ours.isolation.score, "≥", 100)
    if ours.resident is not None:
        yield Wanted("an extra resident adapter, of its bf16 bytes", ours.resident / adapter_bytes, "≤", 1.3)


def train_wanted(found: Mapping[str, Trained | Prepared]) -> Iterator[Wanted]:
    """What can be said of adreg and those trainers that ran."""

    def speed(workload: str, peer: str, bound: float) -> Iterator[Wanted]:
        if (ours := found.get(f"adreg {workload}")) and (theirs := found.get(peer)):
            yield Wanted(f"{workload}: rows/s over {peer}", ours.speed / theirs.speed, "≥", bound)

    yield from speed("emoji", "emoji tutorial", 10)
    yield from speed("qa", "GPT-2 tutorial", 4)
    yield from speed("chat", "TRL", 2)
    yield from speed("chat", "TRL by hand", 1.15)
    ours, theirs = found.get("adreg chat"), found.get("TRL")
    if isinstance(ours, Trained) and isinstance(theirs, Trained):
        yield Wanted("chat: peak memory over TRL's", ours.peak / theirs.peak, "≤", 0.6)
    yield from speed("preparation", "TRL preparation", 3)
