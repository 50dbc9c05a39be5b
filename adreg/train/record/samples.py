"""What a model answers to prompts, greedily and all at once. Knows tokens, not what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from adreg.train.model.load import Model
from adreg.train.record.prompts import Prompts

SECONDS = 20.0


class Answer(NamedTuple):
    """The text of an answer, and whether it ended by itself; None where time was over before."""

    text: str
    stopped: bool | None


def answers(model: Model, prompts: Prompts, most_tokens: int) -> list[Answer]:
    """What `model` answers as it is; its attention, its mode and the random numbers are as before when this returns."""
    if not prompts.asked:
        return []
    with _generating(model):
        rows = _generate(model, [prompt.ids for prompt in prompts.asked], sorted(prompts.stops), most_tokens)
    return [_answer(prompts, ids, most_tokens) for ids in rows]


def _answer(prompts: Prompts, ids: Sequence[int], most_tokens: int) -> Answer:
    end = next((place for place, token in enumerate(ids) if token in prompts.stops), None)
    whole = end is not None or len(ids) >= most_tokens
    return Answer(prompts.encoder.decode(ids[:end]), end is not None if whole else None)


def _generate(model: Model, prompts: Sequence[Sequence[int]], stops: Sequence[int], most: int) -> list[list[int]]:
    """The ids of the answers: prompts padded on the left to one width, decoded together."""
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), stops[0], dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    placed = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    inputs = {name: tensor.to(model.device) for name, tensor in placed.items()}
    out = model.generate(**inputs, generation_config=_greedy(stops, most))
    return [row[width:] for row in out.tolist()]


def _greedy(stops: Sequence[int], most: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, max_new_tokens=most, max_time=SECONDS, eos_token_id=list(stops), pad_token_id=stops[0], use_cache=True
    )


@contextmanager
def _generating(model: Model) -> Iterator[None]:
    """`model` as generation needs it: attention with a cache, no dropout, no gradients."""
    base, training = model.get_base_model(), model.training
    attention, cache = base.config._attn_implementation, base.config.use_cache
    state = torch.get_rng_state()
    base.set_attn_implementation("sdpa")
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        base.set_attn_implementation(attention)
        base.config.use_cache = cache
        model.train(training)
        torch.set_rng_state(state)
