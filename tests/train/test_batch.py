"""Rows laid end to end give what they give alone: by transformers' own attention and by ours, Llama and GPT-2."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from adreg.train import attention
from adreg.train.attention import rows_attention
from adreg.train.batch import flatten, micro_batches, plan_micro_batches
from adreg.train.encode import IGNORED, Example
from adreg.train.forward import SINGLE, choose_attention, logits_at
from adreg.train.fused import fuse
from adreg.train.model import load_model, trainable_parameters
from tests.builders import build_checkpoint
from tests.train.conftest import small_config


def example(length, seed):
    ids = np.random.default_rng(seed).integers(3, 1000, length).astype(np.int32)
    return Example(Path("rows.jsonl"), seed, ids, np.concatenate([[IGNORED], ids[1:]]).astype(np.int32))


EXAMPLES = [example(length, seed) for seed, length in enumerate((23, 5, 60, 41))]


def test_no_label_crosses_from_one_row_to_the_next():
    first, second = example(3, 1), example(4, 2)
    batch = flatten([first, second])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch["keep"].tolist() == [[True, True, False, True, True, True, False]]
    assert batch["targets"].tolist() == [*first.ids[1:], *second.ids[1:]]


def test_micro_batches_hold_every_row_once_within_the_budget():
    lengths = [500, 90, 80, 85, 20, 95, 1500, 60]
    groups = plan_micro_batches(lengths, 600)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in group) <= 600 or len(group) == 1 for group in groups)
    assert len(plan_micro_batches([86] * 8, 1024)) == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_flattened_rows_give_the_logits_they_give_alone(request, kind):
    model = load_model(request.getfixturevalue(f"tiny_{kind}"), small_config(Path("unread")))
    model.eval()
    base = model.get_base_model()
    with torch.no_grad():
        alone = torch.cat([base(input_ids=torch.tensor(one.ids[None]).long()).logits[0, :-1] for one in EXAMPLES])
        for name in ("sdpa", attention.register()):
            base.set_attn_implementation(name)
            assert torch.allclose(logits_at(model, flatten(EXAMPLES)), alone, atol=1e-5)


def test_the_check_takes_our_attention_and_falls_back_where_rows_would_meet(tiny_llama, tmp_path):
    config = small_config(Path("unread"))
    assert choose_attention(load_model(tiny_llama, config), EXAMPLES) == attention.NAME
    leaking = load_model(tiny_llama, config)
    base = leaking.get_base_model()
    forward = base.forward

    def blind(position_ids, logits_to_keep, **inputs):
        return forward(position_ids=torch.arange(position_ids.shape[1])[None], logits_to_keep=logits_to_keep, **inputs)

    base.forward = blind
    base.config.sliding_window = 4096
    assert choose_attention(leaking, EXAMPLES) == SINGLE
    assert all(batch["rows"] == 1 for batch in micro_batches(EXAMPLES, 1))


@pytest.mark.parametrize("width", [40, 300])
def test_our_attention_has_the_gradients_of_sdpa(width, monkeypatch):
    torch.manual_seed(0)
    batch = flatten([example(width, 1), example(17, 2)])
    total = batch["input_ids"].shape[1]
    q, k, v = (torch.randn(1, heads, total, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    grid = (batch["rows"], batch["width"])
    ours = rows_attention(torch.nn.Module(), q, k, v, None, row_slots=batch["slots"], row_grid=grid)[0]
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(tensor[:, :, start:stop] for tensor in (q, k, v)), is_causal=True, enable_gqa=True
        )
        for start, stop in pairwise((0, width, total))
    ]
    theirs = torch.cat(parts, 2).transpose(1, 2)
    # softmax is taken in float32
    assert torch.allclose(ours, theirs, atol=1e-6)
    upstream = torch.randn_like(ours)
    mine, other = (torch.autograd.grad(out, [q, k, v], upstream) for out in (ours, theirs))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize(("kind", "targets"), [("llama", "all-linear"), ("gpt2", "all-linear"), ("gpt2", "auto")])
def test_the_fused_layer_is_peft_s_layer(request, kind, targets):
    config = small_config(Path("unread"))
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"targets": targets})})
    model = load_model(request.getfixturevalue(f"tiny_{kind}"), config)
    generator = torch.Generator().manual_seed(1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(0, 0.1, generator=generator)
    expected, bare, gradients = outputs_and_gradients(model, trained)
    assert fuse(model) == sum(name.endswith("lora_A.default.weight") for name in trained) > 0
    logits, still_bare, fused_gradients = outputs_and_gradients(model, trained)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.equal(still_bare, bare) and not torch.allclose(bare, expected, atol=1e-2)
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def outputs_and_gradients(model, trained):
    """The logits with and without the adapter, and the gradient of every trained parameter."""
    model.zero_grad()
    logits = logits_at(model.eval(), flatten(EXAMPLES))
    logits.square().mean().backward()
    with model.disable_adapter(), torch.no_grad():
        bare = logits_at(model, flatten(EXAMPLES))
    return logits.detach(), bare, {name: parameter.grad.clone() for name, parameter in trained.items()}


def test_a_layer_with_dropout_stays_peft_s_own(tiny_llama):
    config = small_config(Path("unread"))
    dropping = replace_lora(config, dropout=0.1)
    assert fuse(load_model(tiny_llama, dropping)) == 0


def replace_lora(config, **changes):
    return config.model_copy(update={"lora": config.lora.model_copy(update=changes)})


def test_the_demo_base_trains_the_number_of_parameters_its_recipe_states(tmp_path):
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    base = build_checkpoint(tmp_path / "base", "llama", None, num_hidden_layers=1, vocab_size=8, **shape)
    assert trainable_parameters(load_model(base, small_config(Path("unread")))) * 30 == 2442240
