"""Forward hooks that add resident adapters to a model's own outputs, row by row; base rows are not in what they touch.

A hook knows its module's name and finds everything else in the running step. Modules that nobody adapts have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adreg.serve.general.bank import Bank, Place
from adreg.serve.general.ops import SEGMENTS, Op, Runs

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], None]


@dataclass(eq=False)
class Share:
    """The rows of a step that run on adapters of one bank."""

    bank: Bank
    rows: slice
    runs: Runs
    op: Op
    _shrunk: tuple[int, Tensor, Tensor] | None = field(default=None, init=False)

    def adapt(self, name: str, module: nn.Module, given: Tensor, output: Tensor) -> None:
        """Add what the adapters make of `given` to `output` (rows of the step, outside), in place."""
        place = self.bank.places.get(name)
        if place is None:
            return
        own = output[self.rows]
        if place.gain is None:
            self._add(own, place, module, given)
            return
        delta = torch.zeros_like(own)
        self._add(delta, place, module, given)
        bias = getattr(module, "bias", None)
        shift = 0.0 if bias is None else bias.float()
        gain = self.bank.stacks[place.gain][self.runs.index]
        own.copy_((own.float() - shift + delta.float()) * gain + shift)

    def _add(self, out: Tensor, place: Place, module: nn.Module, given: Tensor) -> None:
        a, b = self.bank.stacks[place.a], self.bank.stacks[place.b]
        if isinstance(module, nn.Embedding):
            SEGMENTS.expand(out, a[self.runs.index, given.view(-1)[self.rows]], b, self.runs)
            return
        hidden = self._shrink(place.part, given, a)
        self.op.expand(out, hidden[..., place.ranks], b, self.runs)

    def _shrink(self, part: int, given: Tensor, a: Tensor) -> Tensor:
        """Modules of one part are given the very same tensor, one after the other; it is shrunk once."""
        if self._shrunk is not None and self._shrunk[0] == part and self._shrunk[1] is given:
            return self._shrunk[2]
        hidden = self.op.shrink(given.view(-1, given.shape[-1])[self.rows], a, self.runs)
        self._shrunk = (part, given, hidden)
        return hidden


@dataclass(frozen=True)
class Shares:
    """Who adapts which of `rows` rows."""

    rows: int
    shares: tuple[Share, ...]


class Hooks:
    """The hooks of a model, which do nothing outside of `during`."""

    def __init__(self, modules: Mapping[str, nn.Module], head: str) -> None:
        self._modules, self._head = modules, head
        self._handles: dict[str, Any] = {}
        self._rows: Shares | None = None
        self._wanted: Shares | None = None

    def cover(self, names: set[str]) -> None:
        """Have hooks on the modules `names` and no others."""
        for name in self._handles.keys() - names:
            self._handles.pop(name).remove()
        for name in names - self._handles.keys():
            self._handles[name] = self._modules[name].register_forward_hook(self._hook(name))

    @contextmanager
    def during(self, rows: Shares, wanted: Shares) -> Iterator[None]:
        """Within is one forward: whose all its rows are, and whose those that the output head sees."""
        self._rows, self._wanted = rows, wanted
        try:
            yield
        finally:
            self._rows = self._wanted = None

    def _hook(self, name: str) -> Hook:
        def adapt(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            current = self._wanted if name == self._head else self._rows
            if current is None:
                return
            flat = output.view(-1, output.shape[-1])
            if flat.shape[0] != current.rows:
                raise RuntimeError(f"{name} was given {flat.shape[0]} rows in a step of {current.rows}")
            for share in current.shares:
                share.adapt(name, module, given[0], flat)

        return adapt
