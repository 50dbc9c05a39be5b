"""How rows are laid out: which tokens are learned, what is shared, and that a step holds every row once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adreg.train.data.encode import IGNORED
from adreg.train.model.attention import rows_attention
from adreg.train.model.grid import Grid
from adreg.train.steps.batch import Layout, flatten, pad, plan_micro_batches
from tests.train.steps.rows import example

ALIKE = [example(length, seed, common=12) for seed, length in enumerate((23, 60, 41))]
EXAMPLES = [example(length, seed) for seed, length in enumerate((23, 5, 60, 41))]


def learned(one):
    return one.ids[1:][one.labels[1:] != IGNORED]


def test_no_label_crosses_from_one_row_to_the_next():
    first, second = example(3, 1), example(4, 2)
    batch = flatten([first, second])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch["keep"].tolist() == [[True, True, False, True, True, True, False]]
    assert batch["targets"].tolist() == [*first.ids[1:], *second.ids[1:]]


def test_a_common_beginning_is_laid_down_once_and_never_learned():
    batch = flatten(ALIKE, share=True)
    assert batch["prefix"] == 12
    assert batch["input_ids"].numel() == 12 + 23 + 60 + 41
    assert batch["tokens"] == sum(len(one.ids) for one in ALIKE)
    assert batch["position_ids"][0, :14].tolist() == [*range(12), 12, 13]
    assert batch["targets"].tolist() == [token for one in ALIKE for token in learned(one)]
    same = [ALIKE[0], ALIKE[0]]
    assert flatten(same, share=True)["prefix"] == int(np.argmax(ALIKE[0].labels != IGNORED)) - 1
    assert flatten(EXAMPLES, share=True)["prefix"] == flatten(ALIKE[:1], share=True)["prefix"] == 0


def test_a_padded_batch_learns_the_same_tokens_and_no_padding():
    batch = pad(ALIKE)
    assert batch["input_ids"].shape == batch["keep"].shape == (3, 72)
    assert batch["attention_mask"].sum(1).tolist() == [35, 72, 53]
    assert batch["targets"].tolist() == [token for one in ALIKE for token in learned(one)]
    following = torch.roll(batch["input_ids"], -1, 1)
    assert following[batch["keep"]].tolist() == batch["targets"].tolist()
    assert batch["tokens"] == flatten(ALIKE)["tokens"]


@pytest.mark.parametrize("layout", [Layout("a"), Layout("a", share=True), Layout("a", padded=True)])
def test_a_step_holds_every_row_once_within_the_budget(layout):
    rows = [replace(ALIKE[number % 3], line=number) for number in range(20)]
    batches = layout.micro_batches(rows, 200)
    assert sum(batch["rows"] for batch in batches) == 20
    assert all(batch["input_ids"].numel() <= 200 for batch in batches)
    assert sum(batch["targets"].numel() for batch in batches) == sum(one.trained for one in rows)
    assert all(batch["rows"] == 1 for batch in replace(layout, single=True).micro_batches(rows, 200))


def test_groups_are_of_about_equal_size():
    lengths = [500, 90, 80, 85, 20, 95, 1500, 60]
    groups = plan_micro_batches(lengths, 600)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in group) <= 600 or len(group) == 1 for group in groups)
    assert len(plan_micro_batches([86] * 8, 1024)) == 1


def test_short_rows_are_not_padded_to_long_ones():
    together = [400, 20, 20, 20, 20]
    assert plan_micro_batches(together, 1024) == [[0], [1, 2, 3, 4]]
    assert plan_micro_batches([60, 20, 20, 20, 20], 1024) == [[0, 1, 2, 3, 4]]
    assert plan_micro_batches([60, 20, 20, 20, 20], 1024, padded=True) == [[0, 1, 2], [3, 4]]


def test_what_a_step_shares_is_counted_once():
    rows = [example(40, seed, common=60) for seed in range(10)]
    assert [batch["input_ids"].numel() for batch in Layout("a", share=True).micro_batches(rows, 460)] == [460]
    assert len(Layout("a").micro_batches(rows, 460)) == 3


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("width", [40, 300])
def test_our_attention_has_the_gradients_of_sdpa(width, prefix, window):
    torch.manual_seed(0)
    batch = flatten([example(length, seed, common=12) for seed, length in enumerate((width, 17))], share=prefix > 0)
    total = batch["input_ids"].shape[1]
    q, k, v = (torch.randn(1, heads, total, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    grid = Grid(batch["slots"], batch["rows"], batch["width"], batch["prefix"])
    ours = rows_attention(torch.nn.Module(), q, k, v, None, row_grid=grid, sliding_window=window)[0]
    theirs = torch.cat(separate_rows(q, k, v, width if prefix else width + 12, prefix, window), 2).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)  # softmax is taken in float32
    upstream = torch.randn_like(ours)
    mine, other = (torch.autograd.grad(out, [q, k, v], upstream) for out in (ours, theirs))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, other, strict=True))


def separate_rows(q, k, v, first, prefix, window):
    """What SDPA says of the prefix, then of each row behind the prefix."""
    head = range(prefix)
    rows = [range(prefix, prefix + first), range(prefix + first, q.shape[2])]
    parts = [sdpa(q, k, v, [*head], window)] if prefix else []
    return parts + [sdpa(q, k, v, [*head, *row], window)[:, :, prefix:] for row in rows]


def sdpa(q, k, v, places, window):
    chosen = [tensor[:, :, places] for tensor in (q, k, v)]
    back = torch.arange(len(places))[:, None] - torch.arange(len(places))
    seen = (back >= 0) & (back < (window or len(places)))
    return torch.nn.functional.scaled_dot_product_attention(*chosen, seen, enable_gqa=True)
