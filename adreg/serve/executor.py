"""What the engine wants of whatever runs the model: steps over ragged batches, memory for sequences, resident adapters.

Two rooms implement it: `general/` runs any transformers decoder with hooks, `native/` is the lean one for the Llama
family on a CPU. Everything here is called on the engine's thread, except `prepare`, which any thread may call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adreg.formats.adapters.adapter import Adapter

BLOCK = 32
"""Prompts are cut into steps and kept in the prefix cache at multiples of this many positions only."""
Memory = Any
"""An executor's own keys and values of one sequence."""


@dataclass(frozen=True)
class Segment:
    """What one sequence adds to a step: `tokens` at positions `start`, `start + 1`, … of its `memory`, under the adapter
    in `slot` (None: the base alone). Logits are wanted for its last `outputs` tokens, which may be none."""

    memory: Memory
    start: int
    tokens: Sequence[int]
    slot: int | None
    outputs: int


class Prepared(Protocol):
    """An adapter brought to the form in which it is computed with; `nbytes` is what it holds in memory."""

    @property
    def nbytes(self) -> int: ...


class Executor(Protocol):
    """Runs one base and the adapters attached to it. `exact` tells that a sequence's numbers never depend on whoever
    else is in the step, nor on how its prompt was split into steps at multiples of `BLOCK`."""

    vocabulary: int
    context: int
    slots: int
    exact: bool
    bytes_per_token: int
    """Memory that one token of context holds."""

    def memory(self, tokens: int) -> Memory:
        """Room for `tokens` tokens of one sequence; given back by forgetting it."""
        ...

    def step(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """Run all `segments` at once: logits (sum of `outputs`, vocabulary), segment after segment.

        A step that raised has changed no position before any `start`: the same segments may be asked for again, alone.
        """
        ...

    def copy_out(self, memory: Memory, start: int, stop: int) -> NDArray[Any]:
        """A copy of the keys and values at positions `start` to `stop`, of `(stop - start) * bytes_per_token` bytes."""
        ...

    def copy_in(self, memory: Memory, start: int, block: NDArray[Any]) -> None:
        """Write what `copy_out` gave to positions from `start` on."""
        ...

    def prepare(self, name: str, adapter: Adapter) -> Prepared:
        """Check that `adapter` fits the base and bring it into form; reads its tensors once. Any thread may call it.

        Raises what `fit` raises.
        """
        ...

    def attach(self, prepared: Prepared) -> int:
        """Make `prepared` resident: the slot for segments that run on it. There is a free one, or it is a bug."""
        ...

    def detach(self, slot: int) -> None:
        """Free `slot`; no later segment may name it."""
        ...
