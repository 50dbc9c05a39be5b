"""What a model turns out to be when it runs: its layers' keys and values, the modules that LoRA can adapt, and proof
that it can be stepped at all. Asks the model, never a table of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adreg.errors import UnsupportedError
from adreg.serve.executor import Segment
from adreg.serve.fit import Site
from adreg.serve.general.attention import NAME, Rules, register
from adreg.serve.general.memory import LayerShape, MemoryShape, SequenceMemory
from adreg.serve.general.step import Step, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = 8
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 0.1


@dataclass(frozen=True)
class Survey:
    """`families` are the modules that read one and the same input, together; `head` reads only wanted rows."""

    memory: MemoryShape
    sites: dict[str, Site]
    families: tuple[tuple[str, ...], ...]
    head: str
    vocabulary: int


def survey(model: PreTrainedModel) -> Survey:
    """Run a few tokens through `model`, which from then on attends by `NAME`.

    Raises `UnsupportedError` by name for a model that does not attend through transformers' interface, or remembers
    more of its tokens than their keys and values: its own answer to the whole is compared with that to three steps.
    """
    with torch.inference_mode():
        tokens = torch.arange(PROBE, device=model.device) % model.get_input_embeddings().weight.shape[0]
        expected: Tensor = model(input_ids=tokens[None], use_cache=False).logits[0]
        layers, calls = _Layers(), list[_Call]()
        if _let_attend(model):
            with _noted(model, calls):
                run_model(model, layers, tokens, torch.arange(PROBE, device=model.device), tokens[1:])
        shape = MemoryShape(tuple(layers.shapes[key] for key in sorted(layers.shapes)), layers.dtype, model.device)
        if not layers.complete or not _agrees(_in_steps(model, shape, tokens.tolist()), expected):
            raise UnsupportedError(f"the architecture {type(model).__name__}, whose state is more than keys and values,")
    return _survey(model, shape, calls, expected.shape[-1])


def _let_attend(model: PreTrainedModel) -> bool:
    """Whether `model` attends by `NAME` from now on."""
    register()
    try:
        model.set_attn_implementation(NAME)
    except ValueError:
        return False
    return True


def run_model(model: PreTrainedModel, step: Any, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
    """Logits (wanted, vocabulary) of the flat batch `tokens`."""
    output = model(input_ids=tokens[None], position_ids=positions[None], use_cache=False, logits_to_keep=wanted, ragged=step)
    logits: Tensor = output.logits[0]
    return logits


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    given: Tensor
    rows: int


class _Layers:
    """Takes the place of a step and notes what every layer would remember."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.dtype = torch.float32

    @property
    def complete(self) -> bool:
        """Whether there are layers, numbered from 0 on."""
        return bool(self.shapes) and sorted(self.shapes) == list(range(len(self.shapes)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        self.shapes[layer] = LayerShape(key.shape[0], key.shape[2], value.shape[2])
        self.dtype = key.dtype
        return query.new_zeros(query.shape[1], query.shape[0], value.shape[2])


@contextmanager
def _noted(model: PreTrainedModel, calls: list[_Call]) -> Iterator[None]:
    """Within: every call of a module that LoRA could adapt goes to `calls`."""

    def noting(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            calls.append(_Call(name, module, given[0], output.numel() // output.shape[-1]))

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules() if _kind(module)]
    yield
    for handle in handles:
        handle.remove()


def _kind(module: nn.Module) -> Any:
    from transformers.pytorch_utils import Conv1D

    kinds = {nn.Linear: "linear", Conv1D: "conv1d", nn.Embedding: "embedding"}
    return next((name for kind, name in kinds.items() if isinstance(module, kind)), None)


def _in_steps(model: PreTrainedModel, shape: MemoryShape, tokens: list[int]) -> Tensor:
    memory, logits = SequenceMemory(shape, PROBE), []
    for start, stop in pairwise((0, PROBE // 2 - 1, PROBE - 1, PROBE)):
        layout = lay_out([Segment(memory, start, tokens[start:stop], None, stop - start)])
        given = (torch.tensor(part, device=shape.device) for part in (layout.tokens, layout.positions, layout.wanted))
        logits.append(run_model(model, Step(layout.spans), *given))
    return torch.cat(logits)


def _agrees(got: Tensor, expected: Tensor) -> bool:
    if got.shape != expected.shape:
        return False
    apart = (got.float() - expected.float()).norm() / expected.float().norm()
    return bool(apart <= TOLERANCE.get(expected.dtype, COARSE))


def _survey(model: PreTrainedModel, memory: MemoryShape, calls: list[_Call], vocabulary: int) -> Survey:
    modules = dict(model.named_modules())
    head = next(name for name, module in modules.items() if module is model.get_output_embeddings())
    names = [call.name for call in calls]
    steady = [
        call for call in calls if names.count(call.name) == 1 and call.rows == (PROBE - 1 if call.name == head else PROBE)
    ]
    weights = [id(call.module.weight) for call in steady]
    families: dict[int, list[str]] = {}
    for call in steady:
        families.setdefault(id(call.given), []).append(call.name)
    sites = {call.name: _site(call.module, weights.count(id(call.module.weight)) > 1) for call in steady}
    return Survey(memory, sites, tuple(map(tuple, families.values())), head, vocabulary)


def _site(module: nn.Module, tied: bool) -> Site:
    kind, (first, second) = _kind(module), module.weight.shape
    return Site(kind, second, first, tied) if kind == "linear" else Site(kind, first, second, tied)
