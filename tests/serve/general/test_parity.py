"""Every architecture under every feature of an adapter answers as PEFT does alone, whoever shares its steps."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from adreg.serve.executor import Segment
from tests.builders import KINDS
from tests.serve.general.worlds import Request, World, build_world, prompts, run


@pytest.mark.parametrize("kind", KINDS)
def test_in_mixed_steps_every_architecture_and_feature_answers_as_peft_alone(tmp_path: Path, kind: str) -> None:
    layers = {} if kind in ("gpt2", "gemma3") else {"num_hidden_layers": 3 if kind.startswith("gemma") else 2}
    world = build_world(tmp_path, kind, **layers)
    executor = world.executor()
    slots = world.attach(executor)
    names = [*slots, *slots]
    requests = [
        Request(name, prompt, slots[name], executor.memory(64)) for name, prompt in zip(names, prompts(len(names)), strict=True)
    ]
    run(executor, requests, wanted=12)
    for request in requests:
        expected = world.logits(request.name, request.whole[:-1])
        got = np.stack(request.rows)
        assert np.abs(got - expected).max() <= 1e-4, request.name
        assert request.tokens == expected[len(request.prompt) - 1 :].argmax(1).tolist(), request.name
        if request.name:
            assert np.abs(expected - world.logits(None, request.whole[:-1])).max() > 0.1, "an adapter that does nothing"


def test_bfloat16_strays_from_float32_no_further_than_peft_alone_does(llama: World) -> None:
    executor = llama.executor(dtype="bfloat16")
    slots = llama.attach(executor)
    requests = [Request(name, prompt, slots[name], executor.memory(64)) for name, prompt in zip(slots, prompts(8), strict=True)]
    run(executor, requests, wanted=12)
    strayed = {"ours": 0.0, "peft": 0.0}
    for request in requests:
        tokens = request.whole[:-1]
        expected = llama.logits(request.name, tokens)
        rounded = World(llama.base, {}, {None: copy.deepcopy(llama.models[request.name]).to(torch.bfloat16)})
        strayed["ours"] += float(np.square(np.stack(request.rows) - expected).mean())
        strayed["peft"] += float(np.square(rounded.logits(None, tokens) - expected).mean())
    assert strayed["ours"] <= 1.2 * strayed["peft"]


def test_an_adapted_head_is_right_where_few_rows_are_wanted(llama: World) -> None:
    executor = llama.executor()
    slots = llama.attach(executor, "head", "plain", "dora-ends")
    asked = list(zip([*slots, "head"], prompts(5, seed=6), (1, 0, 1, 1, 2), strict=True))
    got = executor.step([Segment(executor.memory(64), 0, prompt, slots[name], wanted) for name, prompt, wanted in asked])
    expected = [llama.logits(name, prompt)[len(prompt) - wanted :] for name, prompt, wanted in asked]
    assert np.abs(got - np.concatenate(expected)).max() <= 1e-4
