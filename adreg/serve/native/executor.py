"""The executor that runs decoder.c: checks every size that the C code trusts, and keeps alive whatever it points to."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adreg.errors import AdregError, UnsupportedError
from adreg.formats.adapters.adapter import Adapter
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.serve.executor import Prepared, Segment
from adreg.serve.fit import fit
from adreg.serve.native import structs
from adreg.serve.native.adapter import PackedAdapter, pack, sites
from adreg.serve.native.architecture import read_architecture
from adreg.serve.native.library import library
from adreg.serve.native.memory import KvMemory, MemoryForm
from adreg.serve.native.units import Dtype, Format
from adreg.serve.native.weights import check_names, load_weights

MOST_THREADS = 64


def obstacle(checkpoint: Checkpoint) -> str | None:
    """Why this machine cannot run `checkpoint` natively, in words, or None. Compiles the engine where that is still to do."""
    try:
        _check(checkpoint)
        library()
    except AdregError as error:
        return str(error)
    return None


def _check(checkpoint: Checkpoint) -> None:
    if checkpoint.packed:
        raise UnsupportedError("a quantised base in the native engine")
    check_names(checkpoint, read_architecture(checkpoint.config))


def available_threads() -> int:
    """The processors that this process may run on."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, MOST_THREADS)


def _close(library: ctypes.CDLL, engine: int, process: int) -> None:
    """End the engine's threads, which a process forked from `process` does not have."""
    if os.getpid() == process:
        library.adreg_close(engine)


class NativeExecutor:
    """Runs one base of the Llama family and the adapters attached to it; an `Executor`, and an exact one.

    `context` may shorten the model's own; `threads` is how many compute, one for each processor by default.
    Raises what `library`, `read_architecture` and `load_weights` raise.
    """

    exact = True

    def __init__(
        self, checkpoint: Checkpoint, dtype: Dtype, slots: int, context: int | None = None, threads: int | None = None
    ) -> None:
        _check(checkpoint)
        self._library = library()
        self._checkpoint, self._form = checkpoint, Format(dtype)
        self._architecture = read_architecture(checkpoint.config)
        self._weights = load_weights(checkpoint, self._architecture, self._form, threads or available_threads())
        self.vocabulary, self.slots = self._architecture.vocabulary, slots
        self.context = min(self._architecture.context, context or self._architecture.context)
        self._memory_form = MemoryForm.of(self._architecture, self._form)
        self.bytes_per_token = self._memory_form.bytes_per_token
        self._residents: list[PackedAdapter | None] = [None] * slots
        self._sites = sites(self._architecture)
        self._engine = self._library.adreg_open(self._weights.model)
        if not self._engine:
            raise MemoryError("no memory or no threads for the native engine")
        weakref.finalize(self, _close, self._library, self._engine, os.getpid()).atexit = False  # a step may still run then

    def memory(self, tokens: int) -> KvMemory:
        """Room for `tokens` tokens of one sequence; given back by forgetting it."""
        if not 0 < tokens <= self.context:
            raise ValueError(f"room for {tokens} tokens in a context of {self.context}")
        return self._memory_form.open(tokens)

    def step(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Run all `segments` at once: logits (sum of `outputs`, vocabulary), segment after segment."""
        tokens = np.fromiter((token for one in segments for token in one.tokens), np.int64)
        if len({id(one.memory) for one in segments}) < len(segments):
            raise ValueError("two segments of one step share a memory")
        if not len(tokens) or tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise ValueError("a step without segments, or a token outside the vocabulary")
        logits = np.empty((sum(one.outputs for one in segments), self.vocabulary), np.float32)
        table = (structs.Segment * len(segments))(*map(self._row, segments))
        rank = max((self.prepared(one.slot).rank for one in segments if one.slot is not None), default=0)
        ids = tokens.astype(np.int32)
        if self._library.adreg_step(self._engine, table, len(table), ids.ctypes.data, rank, logits.ctypes.data):
            raise MemoryError(f"a step of {len(ids)} tokens")
        return logits

    def _row(self, segment: Segment) -> structs.Segment:
        """`segment` as decoder.c reads it, every size of it checked."""
        memory, count = segment.memory, len(segment.tokens)
        if not isinstance(memory, KvMemory) or memory.form != self._memory_form:
            raise ValueError("memory of another executor")
        if count < 1 or segment.start < 0 or segment.start + count > memory.capacity or not 0 <= segment.outputs <= count:
            raise ValueError(f"{count} tokens at {segment.start}, {segment.outputs} outputs, in room for {memory.capacity}")
        low = None if segment.slot is None else self.prepared(segment.slot).address
        return structs.Segment(memory.address, low, memory.capacity, segment.start, count, segment.outputs, 0)

    def prepared(self, slot: int) -> PackedAdapter:
        """The adapter in `slot`. Raises `ValueError` where there is none."""
        resident = self._residents[slot] if 0 <= slot < self.slots else None
        if resident is None:
            raise ValueError(f"slot {slot} holds no adapter")
        return resident

    def copy_out(self, memory: KvMemory, start: int, stop: int) -> NDArray[Any]:
        """A copy of the keys and values at positions `start` to `stop`, of `(stop - start) * bytes_per_token` bytes."""
        return memory.copy_out(start, stop)

    def copy_in(self, memory: KvMemory, start: int, block: NDArray[Any]) -> None:
        """Write what `copy_out` gave to positions from `start` on."""
        memory.copy_in(start, block)

    def prepare(self, name: str, adapter: Adapter) -> PackedAdapter:
        """Check that `adapter` fits the base and pack it. Any thread may call it. Raises what `fit` raises."""
        fitted = fit(self._sites, self._checkpoint, name, adapter)
        return pack(fitted, self._checkpoint, self._architecture, self._form)

    def attach(self, prepared: Prepared) -> int:
        """Make `prepared` resident: the slot for segments that run on it."""
        assert isinstance(prepared, PackedAdapter)
        slot = self._residents.index(None)
        self._residents[slot] = prepared
        return slot

    def detach(self, slot: int) -> None:
        """Free `slot`; no later segment may name it."""
        self._residents[slot] = None
