"""The sampler against transformers' processors, vLLM's formulas and exact probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adreg.errors import AdregError, UsageError
from adreg.serve.generation import Generation, Sampling
from adreg.serve.sampling.heaviest import drawn, largest, nucleus
from adreg.serve.sampling.noise import Noise
from adreg.serve.sampling.sampler import Sampler

Logits = NDArray[np.float32]
PROMPT = (3, 5, 5, 8)


def sampler(vocabulary: int = 64, ends: tuple[int, ...] = (), min_tokens: int = 0, **settings: Any) -> Sampler:
    return Sampler(Generation(PROMPT, None, 99, Sampling(**settings), min_tokens=min_tokens), vocabulary, ends=ends)


def random_logits(seed: int, size: int = 64, spread: float = 3) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def reference(logits: Logits, generated: list[int], **settings: Any) -> NDArray[np.float64]:
    """Probabilities by transformers' own processors, in vLLM's order."""
    import torch
    from transformers import generation

    scores = torch.from_numpy(logits.astype(np.float64))[None].clone()
    for token, bias in settings.get("logit_bias", ()):
        scores[0, token] += bias
    seen = torch.tensor([[*PROMPT, *generated]])
    if "repetition_penalty" in settings:
        scores = generation.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"])(seen, scores)
    for token in set(generated):
        scores[0, token] -= settings.get("frequency_penalty", 0) * generated.count(token) + settings.get("presence_penalty", 0)
    scores = generation.TemperatureLogitsWarper(settings["temperature"])(seen, scores)
    if "min_p" in settings:
        scores = generation.MinPLogitsWarper(settings["min_p"])(seen, scores)
    if "top_k" in settings:
        scores = generation.TopKLogitsWarper(settings["top_k"])(seen, scores)
    if "top_p" in settings:
        scores = generation.TopPLogitsWarper(settings["top_p"])(seen, scores)
    probabilities: NDArray[np.float64] = scores.softmax(-1)[0].numpy()
    return probabilities


CASES: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.9, "repetition_penalty": 1.4},
    {"temperature": 0.9, "presence_penalty": 1.5, "frequency_penalty": -0.7},
    {"temperature": 1.1, "logit_bias": ((7, 4.0), (8, -100.0))},
    {
        "temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 0.8, "presence_penalty": -0.5,
        "frequency_penalty": 0.3, "logit_bias": ((5, 2.0),),
    },
]  # fmt: skip


@pytest.mark.parametrize("settings", CASES, ids="+".join)
def test_frequencies_are_those_of_transformers_processors(settings: dict[str, Any]) -> None:
    logits, generated = random_logits(4), [9, 9, 5]
    expected = reference(logits, generated, **settings)
    draws = 3000
    seen = np.bincount(
        [sampler(seed=seed, **settings).choose(logits, generated).id for seed in range(draws)], minlength=len(logits)
    )
    assert seen[expected == 0].sum() == 0
    likely = expected * draws >= 5
    rest = 1 - expected[likely].sum()
    wanted = np.append(expected[likely], rest) * draws
    found = np.append(seen[likely], seen[~likely].sum())
    bins = wanted > 1
    statistic = ((found - wanted)[bins] ** 2 / wanted[bins]).sum()
    free = max(1, int(bins.sum()) - 1)
    # a chi-square lies above its mean by 5 standard deviations once in a million times
    assert statistic < free + 5 * np.sqrt(2 * free) + 5


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1e-30}])
def test_greedy_takes_the_likeliest_and_the_lower_id_of_two(settings: dict[str, Any]) -> None:
    logits = random_logits(1)
    assert sampler(**settings).choose(logits, []).id == int(logits.argmax())
    logits[[20, 40]] = 50
    assert sampler(**settings).choose(logits, []).id == 20


def test_penalties_change_what_is_likeliest_token_by_token() -> None:
    chosen: list[int] = []
    logits = random_logits(2)
    greedy = sampler(temperature=0, presence_penalty=100)
    for _ in range(10):
        chosen.append(greedy.choose(logits, chosen).id)
    assert chosen == list(np.argsort(-logits)[:10])


@pytest.mark.parametrize("spread", [0.01, 1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_heaviest_of_a_large_vocabulary_are_found_without_sorting_it(seed: int, spread: float) -> None:
    # halves make ties
    logits = np.round(random_logits(seed, 20_000, spread) * 64) / np.float32(64)
    order = np.argsort(-logits, kind="stable")
    for count in (1, 50, 3000, 20_000):
        assert np.array_equal(largest(logits, count), np.sort(order[:count]))
    weights = np.exp(logits - logits.max())
    for share in (1e-9, 0.3, 0.95):
        sums = np.cumsum(weights[order], dtype=np.float64)
        count = int(np.searchsorted(sums, share * sums[-1])) + 1
        assert np.array_equal(nucleus(weights, share), np.sort(order[:count]))


def test_a_draw_inverts_the_cumulated_distribution_up_to_its_ends() -> None:
    weights = np.exp(random_logits(0, 5000)).astype(np.float32)
    weights[[0, 300, 4998, 4999]] = 0
    sums = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    for uniform in (*np.random.default_rng(0).random(300), 0.0, 1 - 2.0**-53):
        found = drawn(weights, uniform)
        assert weights[found] > 0
        assert sums[found - 1] - 1e-6 <= uniform <= sums[found] + 1e-6


def test_a_token_depends_on_the_seed_and_its_index_alone() -> None:
    rows = [random_logits(row, 1000, 0.5) for row in range(20)]

    def tokens(seed: int | None) -> list[int]:
        drawing, chosen = sampler(1000, seed=seed), list[int]()
        for row in rows:
            # a retry changes nothing
            drawing.choose(row, chosen)
            chosen.append(drawing.choose(row, chosen).id)
        return chosen

    assert tokens(7) == tokens(7)
    assert [sampler(1000, seed=7).choose(row, [0] * index).id for index, row in enumerate(rows)] == tokens(7)
    assert len({tuple(tokens(seed)) for seed in (0, 7, 8, -1, 2**63, None, None)}) == 7


def test_noise_is_uniform_and_uncorrelated_between_seeds_and_indices() -> None:
    numbers = np.array([[Noise(seed).uniform(index) for index in range(60)] for seed in range(200)])
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 600) ** 2 / 600).sum() < 19 + 5 * np.sqrt(38) + 5
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.05


def test_min_tokens_holds_back_every_end_until_then() -> None:
    logits = random_logits(5)
    logits[[2, 11]] = 30
    greedy = sampler(temperature=0, ends=(2, 11), min_tokens=2)
    assert [greedy.choose(logits, [0] * count).id for count in range(3)] == [int(logits.argsort()[-3])] * 2 + [2]


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"logit_bias": ((1, 5.0),)}], ids=["greedy", "biased"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(poison: float, settings: dict[str, Any]) -> None:
    logits = random_logits(0)
    logits[9] = poison
    with pytest.raises(AdregError, match="no finite logits"):
        sampler(**settings).choose(logits, [])
    with pytest.raises(AdregError, match="no finite logits"):
        sampler(**settings).choose(np.full(64, -np.inf, np.float32), [])


def test_logits_stay_as_they_are() -> None:
    logits = random_logits(0)
    before = logits.copy()
    sampler(min_tokens=3, ends=(1,), **CASES[-1]).choose(logits, [4])
    assert np.array_equal(logits, before)


def test_a_bias_outside_of_the_vocabulary_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="logit_bias names token 64"):
        sampler(logit_bias=((64, 1.0),))


@pytest.mark.parametrize("top", [0, 1, 5, 64])
def test_logprobs_are_those_of_the_raw_logits(top: int) -> None:
    import torch

    logits = random_logits(6, spread=30)
    logits[50] = logits[12]
    asked = Generation(PROMPT, None, 9, Sampling(temperature=0.3, top_k=2, logit_bias=((9, 99.0),)), logprobs=top)
    choice = Sampler(asked, 64).choose(logits, [])
    expected = torch.from_numpy(logits.astype(np.float64)).log_softmax(-1).numpy()
    assert choice.logprob is not None
    assert choice.id == 9
    assert choice.logprob.value == pytest.approx(expected[9], abs=1e-6)
    ids = [id_ for id_, _ in choice.logprob.top]
    assert ids == list(np.argsort(-logits, kind="stable")[:top])
    assert [value for _, value in choice.logprob.top] == pytest.approx(expected[ids], abs=1e-6)
