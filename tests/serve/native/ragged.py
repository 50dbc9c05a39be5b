"""Runs sequences through an executor in random company: staggered, cut into chunks, mixed; and what transformers says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.executor import Segment
from adreg.serve.native.executor import NativeExecutor

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """A sequence: its tokens, and the slot it runs on."""

    tokens: tuple[int, ...]
    slot: int | None = None


def open_native(folder: Path, dtype: Any = "float32", threads: int = 2, adapters: Sequence[Path] = ()) -> NativeExecutor:
    """The executor of the checkpoint in `folder`, the adapters in slots 0, 1, …"""
    executor = NativeExecutor(open_checkpoint(folder), dtype, slots=max(1, len(adapters)), threads=threads)
    for path in adapters:
        executor.attach(executor.prepare(path.name, open_adapter(path)))
    return executor


def lines(seed: int, lengths: Sequence[int], vocabulary: int, slots: Sequence[int | None]) -> list[Line]:
    random = np.random.default_rng(seed)
    tokens = [tuple(random.integers(0, vocabulary, length).tolist()) for length in lengths]
    return [Line(one, slots[index % len(slots)]) for index, one in enumerate(tokens)]


def run_ragged(executor: Any, given: Sequence[Line], seed: int, largest: int = 24) -> list[Logits]:
    """The logits of every token of every line, run in random steps: who takes part and how much of it is chance."""
    random = np.random.default_rng(seed)
    memories = [executor.memory(len(line.tokens)) for line in given]
    done = [0] * len(given)
    found: list[list[Logits]] = [[] for _ in given]
    while open_ones := [index for index, line in enumerate(given) if done[index] < len(line.tokens)]:
        chosen = [index for index in open_ones if random.random() < 0.7] or open_ones[:1]
        random.shuffle(chosen)
        wanted = [int(random.integers(1, largest + 1)) if random.random() < 0.5 else 1 for _ in chosen]
        counts = [min(count, len(given[i].tokens) - done[i]) for i, count in zip(chosen, wanted, strict=True)]
        segments = [
            Segment(memories[i], done[i], given[i].tokens[done[i] : done[i] + count], given[i].slot, count)
            for i, count in zip(chosen, counts, strict=True)
        ]
        logits = executor.step(segments)
        for index, count in zip(chosen, counts, strict=True):
            found[index].append(logits[:count])
            logits = logits[count:]
            done[index] += count
    return [np.concatenate(parts) for parts in found]


def run_whole(executor: Any, line: Line) -> Logits:
    """The logits of every token of `line`, alone in one step."""
    memory = executor.memory(len(line.tokens))
    logits: Logits = executor.step([Segment(memory, 0, line.tokens, line.slot, len(line.tokens))])
    return logits


def reference(folder: Path, adapter: Path | None, tokens: Sequence[int], dtype: str = "float32") -> Logits:
    """What transformers, and PEFT alone, compute for `tokens`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager").eval()
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).eval()
        model = model.to(getattr(torch, dtype))
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([list(tokens)])).logits[0].float().numpy())
