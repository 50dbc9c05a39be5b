"""The executor that runs any transformers decoder as it is: flat ragged steps, adapters by hooks, CPU or one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from adreg.errors import AdregError, UnsupportedError
from adreg.formats.adapters.adapter import Adapter
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.serve.executor import Prepared, Segment
from adreg.serve.fit import fit
from adreg.serve.general.adapting import Hooks, Share, Shares
from adreg.serve.general.bank import Bank, Form
from adreg.serve.general.calibration import FIXED, calibrate
from adreg.serve.general.memory import SequenceMemory
from adreg.serve.general.model import Device, Dtype, load_model
from adreg.serve.general.ops import Run, Runs
from adreg.serve.general.step import Step, cut, lay_out
from adreg.serve.general.survey import run_model, survey
from adreg.serve.general.weights import Making, PreparedAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CUDA_RANKS = 8
"""Rows of 16 bytes are what grouped products want there."""


@dataclass(frozen=True)
class Resident:
    """An attached adapter and where it is."""

    bank: Bank
    index: int
    prepared: PreparedAdapter


def load_general(
    checkpoint: Checkpoint, slots: int, *, exact: bool = False, dtype: Dtype = "auto", device: Device = "auto"
) -> GeneralExecutor:
    """An executor on the model of `checkpoint` for `slots` resident adapters. Raises what `load_model` and `survey` raise."""
    return GeneralExecutor(load_model(checkpoint, dtype, device), checkpoint, slots, exact)


class GeneralExecutor:
    """Implements `Executor`. `exact` runs every sequence in forwards of its own that end at multiples of `BLOCK`, so that
    all shapes follow from what it reads itself: bit-equal numbers in any company, for several times the work."""

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, slots: int, exact: bool = False) -> None:
        found = survey(model)
        self.model, self.checkpoint, self.slots, self.exact = model, checkpoint, slots, exact
        self.vocabulary, self.sites, self._shape = found.vocabulary, found.sites, found.memory
        self.bytes_per_token = found.memory.bytes_per_token
        self.context = _context(model)
        modules = dict(model.named_modules())
        multiple = CUDA_RANKS if model.device.type == "cuda" else 1
        self._making = Making(modules, found.families, model.dtype, multiple)
        self._hooks = Hooks(modules, found.head)
        self._banks: dict[Form, Bank] = {}
        self._numbers = count()
        self._residents: dict[int, Resident] = {}
        measured = slots and not exact
        width = model.get_input_embeddings().weight.shape[1]
        self._ops = calibrate(width, model.dtype, model.device) if measured else FIXED

    def memory(self, tokens: int) -> SequenceMemory:
        return SequenceMemory(self._shape, tokens)

    def copy_out(self, memory: SequenceMemory, start: int, stop: int) -> NDArray[Any]:
        return memory.copy_out(start, stop)

    def copy_in(self, memory: SequenceMemory, start: int, block: NDArray[Any]) -> None:
        memory.copy_in(start, block)

    def prepare(self, name: str, adapter: Adapter) -> PreparedAdapter:
        with torch.inference_mode():
            return self._making.prepare(adapter.file.path, fit(self.sites, self.checkpoint, name, adapter))

    def attach(self, prepared: Prepared) -> int:
        assert isinstance(prepared, PreparedAdapter)
        slot = next((slot for slot in range(self.slots) if slot not in self._residents), None)
        if slot is None:
            raise AdregError(f"all {self.slots} slots hold adapters")
        bank = self._banks.get(prepared.form)
        if bank is None:
            bank = self._banks[prepared.form] = Bank(next(self._numbers), prepared.form, prepared.tensors, self.model.device)
        self._residents[slot] = Resident(bank, bank.put(prepared.tensors), prepared)
        if self.model.device.type == "cpu":
            prepared.tensors = []
        self._cover()
        return slot

    def detach(self, slot: int) -> None:
        resident = self._residents.pop(slot)
        tensors = resident.bank.take(resident.index)
        if not resident.prepared.tensors:
            resident.prepared.tensors = tensors
        if not resident.bank.used:
            del self._banks[resident.bank.form]
        self._cover()

    def _cover(self) -> None:
        self._hooks.cover({name for bank in self._banks.values() for name in bank.places})

    def step(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        if self.exact:
            return np.concatenate([self._forward([piece]) for segment in segments for piece in cut(segment)])
        return self._forward(segments)

    def _forward(self, segments: Sequence[Segment]) -> NDArray[np.float32]:
        """All in one forward, the base's rows first, then bank by bank and adapter by adapter."""
        order = sorted(range(len(segments)), key=lambda number: self._place(segments[number]))
        ordered = [segments[number] for number in order]
        layout = lay_out(ordered)
        outputs = [segment.outputs for segment in ordered]
        rows = self._shares(ordered, [len(segment.tokens) for segment in ordered])
        with torch.inference_mode(), self._hooks.during(rows, self._shares(ordered, outputs)):
            given = (self._tensor(part) for part in (layout.tokens, layout.positions, layout.wanted))
            logits = run_model(self.model, Step(layout.spans), *given).float().cpu().numpy()
        return logits if order == sorted(order) else _reordered(logits, order, outputs)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.model.device)

    def _place(self, segment: Segment) -> tuple[int, int]:
        if segment.slot is None:
            return -1, 0
        resident = self._residents[segment.slot]
        return resident.bank.number, resident.index

    def _shares(self, segments: Sequence[Segment], counts: Sequence[int]) -> Shares:
        """Whose the rows are of segments that lie in this order with `counts` rows each."""
        owners = [None if segment.slot is None else self._residents[segment.slot] for segment in segments]
        shares, begin = list[Share](), 0
        for bank, members in groupby(zip(owners, counts, strict=True), lambda member: member[0] and member[0].bank):
            runs = _runs(list(members), self.model.device)
            rows = slice(begin, begin + runs.rows)
            begin = rows.stop
            if bank is not None and runs.rows:
                shares.append(Share(bank, rows, runs, self._ops.choose(runs)))
        return Shares(begin, tuple(shares))


def _runs(members: Sequence[tuple[Resident | None, int]], device: torch.device) -> Runs:
    """A run for every adapter; the base counts as one."""
    runs, begin = list[Run](), 0
    for index, group in groupby(members, lambda member: member[0].index if member[0] else 0):
        end = begin + sum(rows for _, rows in group)
        if end > begin:
            runs.append(Run(index, begin, end))
        begin = end
    return Runs(tuple(runs), device)


def _reordered(logits: NDArray[np.float32], order: Sequence[int], outputs: Sequence[int]) -> NDArray[np.float32]:
    """`logits` of segments that lie in `order`, with `outputs` rows each, in the segments' own order."""
    parts = np.split(logits, np.cumsum(outputs)[:-1])
    return np.concatenate([parts[place] for place in np.argsort(order)])


def _context(model: PreTrainedModel) -> int:
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if length is None:
        raise UnsupportedError("a base without max_position_embeddings")
    return int(length)
