"""Which rows each optimizer step takes, and which process which of them: a pure function of seed and step. Knows no model."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from adreg.train.config import LoopSettings
from adreg.train.data.encode import Example


def examples_of(row: Any) -> tuple[Example, ...]:
    """The token sequences of a row: itself, or the two answers of a pair."""
    inner = getattr(row, "pair", row)
    return (inner,) if isinstance(inner, Example) else (inner.chosen, inner.rejected)


def tokens_of(row: Any) -> int:
    """How many tokens a row has."""
    return sum(len(example.ids) for example in examples_of(row))


def place_of(row: Any) -> str:
    """Where a row was read, as file:line."""
    first = examples_of(row)[0]
    return f"{first.path}:{first.line}"


class StepPlan:
    """The rows of each of the `steps` optimizer steps of a run. An epoch takes every row once, in an order of its own.

    `lengths` are the rows' tokens, needed for packing only: there each epoch lays the rows, best fit first, into steps of at
    most `settings.micro_tokens` tokens, and draws the order of the steps.
    """

    def __init__(self, count: int, settings: LoopSettings, lengths: Sequence[int] = ()) -> None:
        self.count, self.settings, self.lengths = count, settings, lengths
        self._drawn: tuple[int, list[list[int]]] = (0, self._draw(0))
        self.epoch_steps = len(self._drawn[1])
        self.steps = settings.max_steps or max(math.ceil(self.epoch_steps * settings.epochs), 1)

    def rows(self, step: int) -> list[int]:
        """The rows of step `step`, counted from 0."""
        epoch, place = divmod(step, self.epoch_steps)
        if self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(epoch))
        return self._drawn[1][place]

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, is over after `step` steps."""
        return step % self.epoch_steps == 0 or step == self.steps

    def _draw(self, epoch: int) -> list[list[int]]:
        order: list[int] = np.random.default_rng([self.settings.seed, epoch]).permutation(self.count).tolist()
        if not self.settings.packing:
            return [order[start : start + self.settings.batch] for start in range(0, self.count, self.settings.batch)]
        groups = pack([self.lengths[row] for row in order], self.settings.micro_tokens)
        drawn = np.random.default_rng([self.settings.seed, epoch, 1]).permutation(len(groups))
        return [[order[place] for place in groups[group]] for group in drawn]


def lengths_of(rows: Sequence[Any]) -> Sequence[int]:
    """The tokens of each row."""
    known = getattr(rows, "lengths", None)
    return [tokens_of(row) for row in rows] if known is None else [int(length) for length in known]


def plan_steps(rows: Sequence[Any], settings: LoopSettings) -> StepPlan:
    """The plan for `rows`; their lengths are looked up only where packing needs them."""
    return StepPlan(len(rows), settings, lengths_of(rows) if settings.packing else ())


def shares(tokens: Sequence[int], processes: int) -> list[list[int]]:
    """Split rows of so many `tokens` over processes, about equally many tokens each, longest first; some may get none."""
    parts: list[list[int]] = [[] for _ in range(processes)]
    filled = [0] * processes
    for row in sorted(range(len(tokens)), key=lambda row: -tokens[row]):
        emptiest = min(range(processes), key=filled.__getitem__)
        parts[emptiest].append(row)
        filled[emptiest] += tokens[row]
    return parts


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Rows laid into groups of at most `limit` tokens: the longest row first, each where it leaves the least room. A row
    longer than the limit is alone."""
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # tokens that still fit, and the group, sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(rooms, (lengths[row], -1))
        if place == len(rooms):
            groups.append([])
            room, group = limit, len(groups) - 1
        else:
            room, group = rooms.pop(place)
        groups[group].append(row)
        insort(rooms, (max(room - lengths[row], 0), group))
    return groups


class Steps:
    """What the Trainer takes for its loader: the rows of this process, step after step from `start` on."""

    def __init__(self, plan: StepPlan, rows: Sequence[Any], start: int, process: int = 0, processes: int = 1) -> None:
        self.plan, self.source, self.start = plan, rows, start
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[Any]]:
        for step in range(self.start, self.plan.steps):
            rows = [self.source[row] for row in self.plan.rows(step)]
            if self.processes > 1:
                own = shares([tokens_of(row) for row in rows], self.processes)[self.process]
                rows = [rows[place] for place in own]
            yield rows
