"""Encodes planned tensors a block at a time on every core, and hands the blocks on in order. Knows no files and no types."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from adreg.export.blas import single_threaded_blas
from adreg.export.tensors import PlannedTensor
from adreg.formats.safetensors import SafetensorsFile

Encode = Callable[[PlannedTensor, int, int], memoryview]
MOST_WORKERS = 16  # more would wait for the one thread that writes, and cost memory
PROGRAM_BYTES = 120 << 20
BYTES_PER_ELEMENT = 24  # values, an update and what is made of them in one block, and two finished blocks, in float32


@dataclass(frozen=True)
class Block:
    """The encoded rows `start:stop` of a tensor (rows of the stored one), complete or still in the making."""

    tensor: PlannedTensor
    start: int
    stop: int
    data: Future[memoryview]


def encoded(
    tensors: Iterable[PlannedTensor], encode: Encode, adapters: Sequence[SafetensorsFile] = ()
) -> Iterator[tuple[PlannedTensor, memoryview]]:
    """What `encode` makes of every block of every tensor, in order. It runs in as many threads as there are cores, and
    no further ahead than twice that many blocks; the pages of the base and of `adapters` are let go behind the caller."""
    workers, ahead = worker_count(), deque[Block]()
    with single_threaded_blas(), ThreadPoolExecutor(workers) as pool:
        try:
            for block in _submitted(tensors, encode, pool):
                ahead.append(block)
                if len(ahead) > 2 * workers:
                    yield from _finished(ahead.popleft(), adapters)
            while ahead:
                yield from _finished(ahead.popleft(), adapters)
        finally:
            pool.shutdown(cancel_futures=True)


def memory_needed(tensors: Iterable[PlannedTensor]) -> int:
    """About how many bytes of memory it takes to encode `tensors` and write them, the program itself included."""
    largest = max((stop - start) * _width(tensor) for tensor in tensors for start, stop in tensor.output.spans())
    return PROGRAM_BYTES + worker_count() * largest * BYTES_PER_ELEMENT


def worker_count() -> int:
    """How many threads encode: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_WORKERS)


def _submitted(tensors: Iterable[PlannedTensor], encode: Encode, pool: ThreadPoolExecutor) -> Iterator[Block]:
    for tensor in tensors:
        for start, stop in tensor.output.spans():
            yield Block(tensor, start, stop, pool.submit(encode, tensor, start, stop))


def _finished(block: Block, adapters: Sequence[SafetensorsFile]) -> Iterator[tuple[PlannedTensor, memoryview]]:
    yield block.tensor, block.data.result()
    folded = block.tensor.output.folded
    if folded is None:
        return
    row = folded.view.nbytes // folded.shape[0]
    folded.view.release(block.start * row, block.stop * row)
    if block.stop == folded.shape[0]:
        for file in adapters:
            file.release()


def _width(tensor: PlannedTensor) -> int:
    """The elements of one stored row."""
    folded = tensor.output.folded
    return math.prod(folded.shape[1:]) if folded else 1
