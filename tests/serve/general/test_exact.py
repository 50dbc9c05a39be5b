"""Strict steps: a sequence's numbers are bit for bit the same alone, in company, and however its prompt was cut in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adreg.serve.executor import BLOCK, Segment
from adreg.serve.general.executor import GeneralExecutor
from tests.serve.general.worlds import Request, World, prompts, run


def requests(executor: GeneralExecutor, slots: dict[str | None, int | None], count: int = 12) -> list[Request]:
    names = list(slots) * count
    return [
        Request(names[number], prompt, slots[names[number]], executor.memory(128))
        for number, prompt in enumerate(prompts(count, 5 * BLOCK // 2))
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_numbers_are_bit_for_bit_those_alone(request: pytest.FixtureRequest, name: str, dtype: str) -> None:
    world: World = request.getfixturevalue(name)
    executor = world.executor(exact=True, dtype=dtype)
    slots = world.attach(executor)
    together, alone = requests(executor, slots), requests(executor, slots)
    run(executor, together, wanted=10, chunks=(BLOCK, 2 * BLOCK))
    for one in alone:
        run(executor, [one], wanted=10, chunks=(4 * BLOCK,))
    for one, other in zip(alone, together, strict=True):
        assert one.tokens == other.tokens
        assert np.array_equal(one.rows, other.rows)


def test_a_prompt_that_another_sequence_has_read_is_as_good_as_ones_own_reading(llama: World) -> None:
    executor = llama.executor(exact=True)
    for slot in llama.attach(executor).values():
        prompt = (prompts(1, seed=3)[0] * 50)[: 2 * BLOCK]
        first, fresh, warm = executor.memory(70), executor.memory(130), executor.memory(99)
        executor.step([Segment(first, 0, prompt, slot, 1)])
        tokens = [*prompt, 7, 8, 9]
        executor.copy_in(warm, 0, executor.copy_out(first, 0, 2 * BLOCK))
        expected = executor.step([Segment(fresh, 0, tokens, slot, 2)])
        assert np.array_equal(expected, executor.step([Segment(warm, 2 * BLOCK, tokens[2 * BLOCK :], slot, 2)]))


def test_an_adapter_computes_the_same_in_any_slot(llama: World) -> None:
    executor = llama.executor(exact=True)
    prompt = prompts(1, seed=4)[0]
    found: list[Any] = []
    for _ in range(4):
        slot = llama.attach(executor, "patterns")["patterns"]
        found.append(executor.step([Segment(executor.memory(40), 0, prompt, slot, 1)]))
    assert all(np.array_equal(found[0], other) for other in found)
