"""Blocks come back only to those who may have them, the least recently used go, and no answer changes by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adreg.serve.engine.prefix import PrefixStore
from adreg.serve.executor import BLOCK
from adreg.serve.generation import Ended, Generation
from tests.serve.conftest import GREEDY, World, digest_of, generate

SHARED = tuple(range(100, 100 + 3 * BLOCK))


@dataclass
class Numbers:
    """Of an executor, the memory alone: 8 bytes a token."""

    bytes_per_token: int = 8

    def memory(self, tokens: int) -> NDArray[np.float64]:
        return np.full(tokens, np.nan)

    def copy_out(self, memory: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
        return memory[start:stop].copy()

    def copy_in(self, memory: NDArray[np.float64], start: int, block: NDArray[np.float64]) -> None:
        memory[start : start + len(block)] = block


def store(blocks: int = 100) -> PrefixStore:
    executor: Any = Numbers()
    return PrefixStore(executor, ("base", "float32"), blocks * BLOCK * 8)


def asked(prompt: tuple[int, ...] = SHARED, adapter: str | None = None, tenant: str = "", logprobs: bool = False) -> Generation:
    return Generation(prompt, adapter, 1, tenant=tenant, prompt_logprobs=logprobs)


def keep(into: PrefixStore, one: Generation) -> None:
    """As if the model had read the prompt: token t leaves the number t + 0.5."""
    into.keep(one, np.array(one.prompt) + 0.5)


def found(within: PrefixStore, one: Generation) -> int:
    """How many tokens come back; they are right, and nothing else is written."""
    memory = np.full(len(one.prompt), np.nan)
    count = within.load(one, memory)
    assert (memory[:count] == np.array(one.prompt[:count]) + 0.5).all()
    assert np.isnan(memory[count:]).all()
    return count


def test_a_prompt_gets_back_the_blocks_that_it_shares_but_never_its_last_token() -> None:
    blocks = store()
    keep(blocks, asked())
    assert found(blocks, asked()) == 2 * BLOCK
    assert found(blocks, asked((*SHARED, 7))) == 3 * BLOCK
    assert found(blocks, asked((*SHARED[: BLOCK + 5], 7, *SHARED))) == BLOCK
    assert found(blocks, asked((7, *SHARED))) == 0
    assert found(blocks, asked(SHARED[:BLOCK])) == 0
    assert found(blocks, asked((*SHARED, 7), logprobs=True)) == 0
    assert (blocks.hit_tokens, len(blocks), blocks.nbytes) == (6 * BLOCK, 3, 3 * BLOCK * 8)


def test_other_adapters_tenants_and_bases_share_nothing_however_they_are_called() -> None:
    blocks = store()
    keep(blocks, asked(adapter="sha256:a", tenant="t"))
    assert found(blocks, asked(adapter="sha256:a", tenant="t")) > 0
    strangers = [(None, "t"), ("sha256:a", ""), ("sha256:b", "t"), ("sha256:at", ""), ("sha256:", "at"), (None, "sha256:at")]
    for adapter, tenant in strangers:
        assert found(blocks, asked(adapter=adapter, tenant=tenant)) == 0
    keep(blocks, asked(tenant="base"))
    assert found(blocks, asked(adapter="base")) == 0
    executor: Any = Numbers()
    other = PrefixStore(executor, ("basefloat", "32"), 1 << 20)
    other._blocks = blocks._blocks
    assert found(other, asked(adapter="sha256:a", tenant="t")) == 0


def test_a_hash_that_lies_is_no_hit() -> None:
    blocks = store()
    keep(blocks, asked())
    for key, block in list(blocks._blocks.items()):
        blocks._blocks[key] = type(block)((9,) * BLOCK, block.values)
    assert found(blocks, asked()) == 0


def test_the_least_recently_used_goes_and_no_block_outlives_the_one_before_it() -> None:
    blocks = store(blocks=5)
    branches = [(*SHARED[: 2 * BLOCK], *range(start, start + BLOCK), 7) for start in (1000, 2000, 3000)]
    for branch in branches:
        keep(blocks, asked(branch))
    assert found(blocks, asked(branches[0])) == 3 * BLOCK
    keep(blocks, asked((*range(BLOCK), 7)))
    assert [found(blocks, asked(branch)) for branch in branches] == [3 * BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert blocks.nbytes == 5 * BLOCK * 8
    for start in range(10_000, 60_000, 1000):
        keep(blocks, asked(tuple(range(start, start + 4 * BLOCK))))
        assert blocks.nbytes <= blocks.limit
        assert found(blocks, asked(tuple(range(start, start + 4 * BLOCK)))) == 3 * BLOCK


@pytest.mark.parametrize("executor", ["general", "native"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_with_the_cache_are_bit_for_bit_those_without(llama: World, executor: str, dtype: str) -> None:
    prompts = [(*SHARED, *range(7)), SHARED, (*SHARED[:40], 5, 6), (*SHARED, *range(7), 9)]
    everybody = [
        Generation(prompt, adapter, 6, GREEDY, logprobs=3)
        for adapter in (None, digest_of("all"), digest_of("ns/qv:prod"))
        for prompt in prompts
    ]
    with_cache = llama.engine(executor=executor, dtype=dtype)
    without = llama.engine(executor=executor, dtype=dtype, prefix_bytes=0)
    answers = []
    for engine in (with_cache, without):
        engine.start()
        answers.append([generate(engine, one)[0] for one in everybody])
        engine.close()
    cached = [heard.end.cached_tokens for heard in answers[0] if isinstance(heard.end, Ended)]
    assert cached == [0, 2 * BLOCK, BLOCK, 3 * BLOCK] * 3
    assert [heard.tokens for heard in answers[0]] == [heard.tokens for heard in answers[1]]
    assert [heard.logprobs for heard in answers[0]] == [heard.logprobs for heard in answers[1]]
    assert with_cache.stats().prefix_hit_tokens == sum(cached)
    assert without.stats().prefix_used == 0
