"""Which layout of rows a model takes without mixing them up, proven on two of them before the first step.

Knows tensors and models. Nothing is taken on trust: a model whose rows would see each other gets the next layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from adreg.train.data.encode import IGNORED, Example
from adreg.train.model import attention
from adreg.train.model.head import fuse_head, release_head
from adreg.train.model.load import Model
from adreg.train.steps.batch import Layout
from adreg.train.steps.forward import accepts, logits_at, selects, to_device, token_losses

PROBED_TOKENS = 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # mean difference, in standard deviations of the logits
WINDOWED = {"gemma2", "gemma3", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3"}
"""Architectures that hand their window and soft cap to the attention function, as far as their code was read."""


def choose_layout(model: Model, examples: Sequence[Example]) -> Layout:
    """Set the fastest attention that keeps rows apart, proven on two of `examples`, and the output layer that tells losses.

    First `adreg_rows`, then transformers' own with restarting positions, then rows padded to one width, each with an
    attention mask; else one row at a time.
    """
    model.eval()
    base, stock = model.get_base_model(), model.config._attn_implementation
    probes = [_probe(example) for example in (examples[0], examples[-1])]
    with torch.no_grad():
        alone = torch.cat(
            [logits_at(model, to_device(Layout(stock, padded=True).batch([one]), model.device)) for one in probes]
        )
        for layout in _layouts(model, stock):
            base.set_attn_implementation(layout.attention)
            if _keeps_apart(model, layout, probes, alone.float()):
                break
        _choose_head(model, layout, probes)
    return layout


def _layouts(model: Model, stock: str) -> Iterator[Layout]:
    """What can be tried, best first; the last is always right."""
    if selects(model) and accepts(model, "position_ids"):
        if _is_known_causal(model):
            yield Layout(attention.register(), share=True)
        yield Layout(stock)
    yield Layout(stock, padded=True)
    yield Layout(stock, padded=True, single=True)


def _is_known_causal(model: Model) -> bool:
    """Whether every layer attends to all earlier tokens, or to as many as it says in a way we know."""
    config = model.config.get_text_config()
    limited = any(getattr(config, field, None) for field in ("sliding_window", "attn_logit_softcapping"))
    chunked = getattr(config, "attention_chunk_size", None)
    return not chunked and (not limited or model.config.model_type in WINDOWED)


def _keeps_apart(model: Model, layout: Layout, probes: list[Example], alone: Tensor) -> bool:
    """Whether two rows in one batch give the logits they give alone, and the second none of the first's influence."""
    if layout.single:
        return True
    together = _probed(model, layout, probes)
    start, second = len(probes[0].ids) // 2, probes[0].trained
    changed = np.concatenate([probes[0].ids[:start], probes[0].ids[start:][::-1]])
    other = _probed(model, layout, [replace(probes[0], ids=changed), probes[1]])
    if not torch.equal(together[second:], other[second:]):
        return False
    return bool((together - alone).abs().mean() <= TOLERANCE[model.dtype] * alone.std())


def _choose_head(model: Model, layout: Layout, probes: list[Example]) -> None:
    """Let the output layer tell losses if they are those of the logits, which a model may scale or cap after it."""
    batch = to_device(layout.batch(probes[:1]), model.device)
    expected = token_losses(model, batch)
    if not (selects(model) and fuse_head(model)):
        return
    found = token_losses(model, batch)
    if found.shape != expected.shape or (found - expected).abs().mean() > TOLERANCE[model.dtype] / 10 * expected.mean():
        release_head(model)


def _probe(example: Example) -> Example:
    """The first tokens of `example`, the second half of them learned."""
    ids = example.ids[:PROBED_TOKENS]
    return replace(example, ids=ids, labels=np.where(np.arange(len(ids)) < max(len(ids) // 2, 1), IGNORED, ids))


def _probed(model: Model, layout: Layout, examples: list[Example]) -> Tensor:
    return logits_at(model, to_device(layout.batch(examples), model.device)).float()
