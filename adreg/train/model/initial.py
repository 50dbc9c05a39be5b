"""How fresh LoRA weights begin, beyond PEFT's own two ways: from the base's weights or from what flows through them.

Everything is computed in float32 and the same for nn.Linear and GPT-2's Conv1D. Where the beginning takes a part out of
the base (PiSSA, OLoRA), what it took is remembered, and the adapter is saved as the difference, for the base as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import Tensor, nn

from adreg.errors import UsageError
from adreg.train.data.encode import Example

ADAPTER = "default"
TAKEN = "adreg_taken"
SUBSPACE_STEPS = 16
OBSERVED_TOKENS = 512
SMALL = 0.02

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Taken:
    """The A (rank, in) and B (out, rank) that were taken out of a module's weight, on the CPU in float32."""

    a: Tensor
    b: Tensor


def initialise(model: Any, kind: str, examples: Iterable[Example]) -> None:
    """Begin every LoRA module of `model` as `kind` says: pissa, olora, orthogonal or eva, the last from `examples`.

    PiSSA: arXiv 2404.02948, by 16 steps of subspace iteration. OLoRA: arXiv 2406.01775. EVA: arXiv 2410.07170, with the
    given ranks. Orthogonal: BA = 0 with neither being 0, as PEFT does it.
    """
    layers = dict(_layers(model))
    if kind == "eva":
        _begin_from_inputs(model, layers, examples)
    elif kind == "orthogonal":
        for layer in layers.values():
            _set(layer, _orthogonal(layer))
    else:
        setattr(model, TAKEN, {name: _take(layer, SPLITS[kind]) for name, layer in layers.items()})


def taken_from(model: Any) -> Mapping[str, Taken]:
    """What the beginning took out of the base, by module name as in saved keys; empty for all other beginnings."""
    return getattr(model, TAKEN, {})


def begin_small(encoder: nn.Module) -> None:
    """Virtual keys and values near zero: PEFT draws them at the size of 1, which drowns every real token."""
    nn.init.normal_(encoder.get_submodule("embedding").weight, std=SMALL)


def begin_as_text(encoder: nn.Module, embeddings: nn.Module, ids: Sequence[int]) -> None:
    """Virtual tokens that begin as the embeddings of `ids`, repeated to fill them."""
    weight = encoder.get_submodule("embedding").weight
    chosen = torch.tensor([ids[place % len(ids)] for place in range(weight.shape[0])])
    with torch.no_grad():
        weight.copy_(embeddings.weight[chosen.to(embeddings.weight.device)])


def _layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _weight(layer: LoraLayer) -> Tensor:
    """The base's weight as (out, in), in float32."""
    weight = layer.get_base_layer().weight.data.float()
    return weight.t() if layer.fan_in_fan_out else weight


def _set(layer: LoraLayer, factors: Factors) -> None:
    for place, values in zip((layer.lora_A, layer.lora_B), factors, strict=True):
        place[ADAPTER].weight.data = values.to(place[ADAPTER].weight.device, torch.float32).contiguous()


def _take(layer: LoraLayer, split: Callable[[Tensor, int], Factors]) -> Taken:
    """Give the layer the factors of a part of its weight, divided by the scaling, and the base what remains."""
    weight, scaling = _weight(layer), layer.scaling[ADAPTER]
    a, b = split(weight, layer.r[ADAPTER])
    root = scaling**0.5
    a, b = a / root, b / root
    rest = weight - scaling * b @ a
    base = layer.get_base_layer()
    base.weight.data = (rest.t() if layer.fan_in_fan_out else rest).contiguous().to(base.weight.dtype)
    _set(layer, (a, b))
    return Taken(a.cpu().clone(), b.cpu().clone())


def _principal(weight: Tensor, rank: int) -> Factors:
    """The `rank` largest singular values, half of each in A and in B."""
    u, s, v = torch.svd_lowrank(weight, q=min(rank + 8, *weight.shape), niter=SUBSPACE_STEPS)
    root = s[:rank].sqrt()
    return root[:, None] * v[:, :rank].t(), u[:, :rank] * root


def _triangular(weight: Tensor, rank: int) -> Factors:
    """The first `rank` columns of Q and rows of R."""
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def _orthogonal(layer: LoraLayer) -> Factors:
    rank = layer.r[ADAPTER]
    q = torch.linalg.qr(torch.randn(rank, rank)).Q
    a = torch.randn(layer.in_features, rank // 2) @ q[0::2] / 10
    b = torch.randn(layer.out_features, rank // 2) @ q[1::2] / 10
    return a.t(), b


SPLITS: dict[str, Callable[[Tensor, int], Factors]] = {"pissa": _principal, "olora": _triangular}


def _begin_from_inputs(model: Any, layers: Mapping[str, LoraLayer], examples: Iterable[Example]) -> None:
    """A as the directions in which the inputs of a layer vary most, over one pass through the first rows; B stays 0."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str) -> Callable[..., None]:
        return lambda _module, inputs: seen[name].append(inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float().cpu())

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        _observe(model, examples)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        _set_directions(name, layer, torch.cat(seen[name]) if seen[name] else torch.zeros(0, layer.in_features))


def _observe(model: Any, examples: Iterable[Example]) -> None:
    model.eval()
    left = OBSERVED_TOKENS
    with torch.no_grad(), model.disable_adapter():
        for example in examples:
            ids = torch.tensor(example.ids[:left], dtype=torch.long, device=model.device)[None]
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
            left -= ids.shape[1]
            if left <= 0:
                break


def _set_directions(name: str, layer: LoraLayer, inputs: Tensor) -> None:
    rank = layer.r[ADAPTER]
    if min(inputs.shape) < rank:
        raise UsageError(
            f"lora.init eva: {name} saw {inputs.shape[0]} tokens of width {inputs.shape[1]}, fewer than its rank {rank}",
            "take more data, a lower lora.r, or another lora.init",
        )
    directions = torch.linalg.svd(inputs.double(), full_matrices=False).Vh[:rank]
    layer.lora_A[ADAPTER].weight.data = directions.float().to(layer.lora_A[ADAPTER].weight.device).contiguous()
