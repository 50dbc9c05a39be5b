"""Preference optimisation against the paper's formula, computed plainly: padded rows, all logits, float64, two models."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adreg.train.config import check_config
from adreg.train.data.encode import IGNORED, Example, Pair
from adreg.train.model.fused import fuse
from adreg.train.model.load import load_model
from adreg.train.steps.batch import Layout
from adreg.train.steps.layout import choose_layout
from adreg.train.steps.preference import DpoObjective, ScoredPairs, score

BETA = 0.3
PADDED = Layout("sdpa", padded=True)


def example(prompt, answer):
    ids = np.concatenate([prompt, answer]).astype(np.int32)
    return Example(Path("rows"), 1, ids, np.where(np.arange(len(ids)) < len(prompt), IGNORED, ids).astype(np.int32))


def pair(random, prompt, chosen, rejected):
    first = np.concatenate([[1, 11, 12, 13], random.integers(3, 40000, prompt)])
    return Pair(example(first, random.integers(3, 40000, chosen)), example(first, random.integers(3, 40000, rejected)))


@pytest.fixture
def pairs():
    random = np.random.default_rng(5)
    return [pair(random, *lengths) for lengths in [(5, 3, 9), (12, 7, 2), (1, 1, 1), (8, 4, 4)]]


@pytest.fixture
def model(tiny_llama):
    """An adapter that has learned something, ready as the loop would have it."""
    config = check_config({"train": {"precision": "fp32"}})
    loaded = load_model(tiny_llama, config)
    stir(loaded, 0.05)
    return loaded


def stir(model, strength, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * strength)


def plain_log_probability(model, row):
    width = len(row.ids) + 3
    ids, mask = torch.zeros(1, width, dtype=torch.long), torch.zeros(1, width, dtype=torch.long)
    ids[0, : len(row.ids)], mask[0, : len(row.ids)] = torch.from_numpy(row.ids).long(), 1
    told = F.log_softmax(model(input_ids=ids, attention_mask=mask).logits[0], -1)
    learned = np.flatnonzero(row.labels != IGNORED)
    return sum(told[place - 1, int(row.ids[place])] for place in learned)


def plain_loss(model, reference, pairs):
    """Equation 7 of arXiv 2305.18290, a sum over the pairs."""
    total, margins = torch.zeros((), dtype=torch.float64), []
    for one in pairs:
        with torch.no_grad():
            known = [plain_log_probability(reference, row) for row in (one.chosen, one.rejected)]
        now = [plain_log_probability(model, row) for row in (one.chosen, one.rejected)]
        margins.append(BETA * (now[0] - known[0]) - BETA * (now[1] - known[1]))
        total = total - torch.log(1 / (1 + torch.exp(-margins[-1])))
    return total, margins


def gradients(model):
    return {name: value.grad.double() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("reference", ["the base", "the adapter as it was"])
@pytest.mark.parametrize("budget", [40, 10_000])
def test_loss_margins_and_gradient_are_the_papers(model, pairs, budget, reference):
    exact = copy.deepcopy(model).double().eval()
    before = copy.deepcopy(exact)
    if reference == "the base":
        before = before.unload()
    layout = choose_layout(model, [row for one in pairs for row in (one.chosen, one.rejected)])
    assert layout.share
    fuse(model)
    scored = score(model, pairs, budget, layout, adapter=reference != "the base")
    stir(model, 0.08, seed=9)
    stir(exact, 0.08, seed=9)
    expected, margins = plain_loss(exact, before, pairs)
    expected.backward()
    objective = DpoObjective(BETA, layout)
    batches = objective.micro_batches(list(scored), budget)
    told: dict[str, float] = {}
    for batch in batches:
        loss, sums = objective.loss(model, batch)
        loss.backward()
        for name, value in {"loss": loss.item(), **sums}.items():
            told[name] = told.get(name, 0) + value
    assert sum(objective.weight(batch) for batch in batches) == len(pairs)
    assert sum(objective.tokens(batch) for batch in batches) == sum(len(r.ids) for p in pairs for r in (p.chosen, p.rejected))
    assert told["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert told["margin"] == pytest.approx(sum(margins).item(), rel=1e-4, abs=1e-5)
    assert told["accuracy"] == sum(margin > 0 for margin in margins)
    assert told["margin"] == pytest.approx(told["chosen_reward"] - told["rejected_reward"], rel=1e-4, abs=1e-6)
    for name, value in gradients(exact).items():
        assert torch.allclose(gradients(model)[name], value, rtol=1e-3, atol=2e-6 * float(value.abs().max() + 1)), name


def test_before_the_first_step_no_answer_has_gained(tiny_llama, pairs):
    model = load_model(tiny_llama, check_config({"train": {"precision": "fp32"}}))
    objective = DpoObjective(BETA, PADDED)
    scored = score(model, pairs, 60, PADDED, adapter=False)
    assert np.array_equal(scored.scores, score(model, pairs, 60, PADDED, adapter=True).scores)
    [batch] = objective.micro_batches(list(scored), 10_000)
    loss, sums = objective.loss(model.eval(), batch)
    assert loss.item() / 4 == pytest.approx(math.log(2), rel=1e-5)
    assert sums["margin"] == pytest.approx(0, abs=1e-4)


def test_long_prompts_are_computed_once_for_both_answers_and_short_pairs_go_together(pairs):
    objective, random = DpoObjective(BETA, Layout("adreg_rows", share=True)), np.random.default_rng(1)
    long = [pair(random, 300, 20, 30) for _ in range(3)]

    def computed(pairs):
        return [batch["input_ids"].shape[1] for batch in objective.micro_batches(scored(pairs), 2000)]

    assert sorted(computed(long)) == [303 + 21 + 31] * 3
    assert len(computed(pairs)) == 1


def scored(pairs):
    return list(ScoredPairs(pairs, np.zeros((len(pairs), 2), np.float32)))


def test_a_pair_without_a_finite_loss_is_the_culprit(model, pairs):
    objective = DpoObjective(BETA, PADDED)
    rows = scored(pairs)
    assert objective.culprits(model, rows) == []
    assert objective.culprits(model, [*rows[:2], replace(rows[2], chosen=math.nan), rows[3]]) == [2]
