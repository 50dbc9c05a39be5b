"""The layout is chosen by what the model does with two rows: the best one under which they do not see each other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adreg.train.model import attention
from adreg.train.model.fused import fuse
from adreg.train.model.head import loss_head
from adreg.train.model.load import load_model
from adreg.train.steps import layout as layouts
from adreg.train.steps.layout import choose_layout
from adreg.train.steps.sft import SftObjective
from tests.train.steps.rows import assert_alike, example, loss_and_gradients, padded_loss, settings, step, stirred

ROWS = [example(length, seed, common=12) for seed, length in enumerate((23, 60, 41))]


def bare(model):
    """The model beneath the adapter, and its forward pass."""
    base = model.get_base_model()
    return base, base.forward


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sound_model_gets_our_attention_and_a_head_that_tells_losses(tiny_llama, precision):
    config = settings()
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    model = load_model(tiny_llama, config)
    chosen = choose_layout(model, ROWS)
    assert (chosen.attention, chosen.share, chosen.padded) == (attention.NAME, True, False)
    assert loss_head(model)


def test_without_our_attention_rows_stay_apart_by_their_positions(tiny_gpt2, monkeypatch):
    monkeypatch.setattr(layouts, "_is_known_causal", lambda model: False)
    chosen = choose_layout(load_model(tiny_gpt2, settings()), ROWS)
    assert (chosen.attention, chosen.share, chosen.padded) == ("sdpa", False, False)


@pytest.mark.parametrize("leak", ["strong", "faint"])
def test_rows_are_padded_where_they_would_see_each_other(tiny_llama, leak):
    model = stirred(load_model(tiny_llama, settings()))
    base, forward = bare(model)

    def strong(position_ids=None, **inputs):
        return forward(position_ids=None, **inputs)

    def faint(input_ids, **inputs):
        out = forward(input_ids=input_ids, **inputs)
        if len(input_ids) == 1 and input_ids.shape[1] > 72:  # more than one row
            out.logits = out.logits + 1e-3 * (input_ids * torch.arange(input_ids.shape[1])).sum() % 7
        return out

    expected, gradients = loss_and_gradients(model.train(), padded_loss(model, ROWS))
    base.forward = {"strong": strong, "faint": faint}[leak]
    chosen = choose_layout(model, ROWS)
    assert chosen.padded and not chosen.single
    loss, found = loss_and_gradients(model.train(), step(model, chosen.micro_batches(ROWS, 150)))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert found.keys() == gradients.keys()


def test_rows_go_alone_where_a_batch_mixes_them(tiny_llama):
    model = load_model(tiny_llama, settings())
    base, forward = bare(model)

    def mixing(input_ids, **inputs):
        out = forward(input_ids=input_ids, **inputs)
        out.logits = out.logits + 1e-3 * (input_ids * torch.arange(input_ids.numel()).view_as(input_ids)).sum() % 7
        return out

    base.forward = mixing
    chosen = choose_layout(model, ROWS)
    assert chosen.single
    assert [batch["rows"] for batch in SftObjective(chosen).micro_batches(ROWS, 1000)] == [1, 1, 1]


def test_a_model_that_cannot_choose_positions_is_padded(tiny_llama):
    model = stirred(load_model(tiny_llama, settings()))
    expected = padded_loss(model, ROWS).item()
    base = model.get_base_model()
    kind: Any = type(base)

    class Old(kind):  # type: ignore[misc]
        def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, use_cache=None, labels=None, **_):
            return kind.forward(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    base.__class__ = Old
    chosen = choose_layout(model, ROWS)
    assert chosen.padded and loss_head(model) is None
    assert step(model, chosen.micro_batches(ROWS, 150)).item() == pytest.approx(expected, rel=1e-5)


def test_learned_tokens_before_each_row_need_padding(tiny_llama):
    config = settings()
    model = load_model(tiny_llama, config.model_copy(update={"method": "prompt"}))
    chosen = choose_layout(model, ROWS)
    assert chosen.padded and not chosen.single
    expected, gradients = loss_and_gradients(model, padded_loss(model, ROWS))
    loss, found = loss_and_gradients(model, step(model, chosen.micro_batches(ROWS, 1000)))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert all(torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4) for name, gradient in gradients.items())


def test_activations_computed_twice_change_nothing(tiny_llama):
    model = stirred(load_model(tiny_llama, settings(dropout=0.3)))
    batches = choose_layout(model, ROWS).micro_batches(ROWS, 1000)
    fuse(model)
    torch.manual_seed(4)
    expected, gradients = loss_and_gradients(model.train(), step(model, batches))
    model.get_base_model().activation_checkpointing_enable()
    torch.manual_seed(4)
    loss, found = loss_and_gradients(model, step(model, batches))
    assert loss == expected
    assert_alike(found, gradients, 1e-6)


def test_culprits_are_the_rows_whose_own_loss_is_no_number(tiny_llama):
    model = stirred(load_model(tiny_llama, settings()))
    objective = SftObjective(choose_layout(model, ROWS))
    with torch.no_grad():
        model.get_input_embeddings().weight[299] = torch.nan  # also the output layer's, as a token to predict
    base = model.get_base_model()
    base.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(base.lm_head.weight.detach()), requires_grad=False)
    poisoned = [replace(row, ids=with_token(row, 299) if place == 1 else clean(row)) for place, row in enumerate(ROWS)]
    assert objective.culprits(model, poisoned) == [1]
    assert all(parameter.grad is None for parameter in model.parameters())


def with_token(row, token):
    ids = row.ids.copy()
    ids[14] = token
    return ids


def clean(row):
    return np.where(row.ids == 299, 5, row.ids).astype(np.int32)
