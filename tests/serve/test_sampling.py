"""Seeds repeat, the nucleus is what it says, and a tiny temperature is no overflow."""

from __future__ import annotations

from collections import Counter

import pytest

from adreg.errors import AdregError
from adreg.serve.sampling import Sampler
from adreg.serve.sequence import Sampling

PROBABILITIES = [0.05, 0.5, 0.3, 0.1, 0.05]


def draws(sampling: Sampling, count: int = 4000) -> Counter[int]:
    import torch

    logits = torch.tensor(PROBABILITIES).log()
    sampler = Sampler(sampling)
    return Counter(sampler.choose(logits) for _ in range(count))


def test_frequencies_follow_the_probabilities() -> None:
    seen = draws(Sampling(1.0, 1.0, seed=1))
    assert [abs(seen[token] / 4000 - wanted) < 0.03 for token, wanted in enumerate(PROBABILITIES)] == [True] * 5


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    assert set(draws(Sampling(1.0, 0.79, seed=1))) == {1, 2}
    assert set(draws(Sampling(1.0, 0.85, seed=1))) == {1, 2, 3}
    assert set(draws(Sampling(1.0, 1e-9, seed=1))) == {1}


def test_temperature_sharpens_down_to_greedy() -> None:
    assert draws(Sampling(0.5, 1.0, seed=1))[1] > draws(Sampling(1.0, 1.0, seed=1))[1] + 400
    assert draws(Sampling(1e-30, 1.0, seed=1), 50) == draws(Sampling(0), 50) == {1: 50}


def test_a_seed_repeats_and_another_differs() -> None:
    import torch

    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def sequence(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(1.0, 0.9, seed))
        return [sampler.choose(logits) for _ in range(20)]

    assert sequence(7) == sequence(7)
    assert len({tuple(sequence(seed)) for seed in (7, 8, -1, None, None)}) == 5


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(poison: float) -> None:
    import torch

    with pytest.raises(AdregError, match="no finite logits"):
        Sampler(Sampling(0)).choose(torch.tensor([1.0, poison, 0.0]))
