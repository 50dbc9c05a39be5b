"""Rows laid end to end give what they give alone: by transformers' own attention and by ours, Llama and GPT-2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adreg.train import attention
from adreg.train.attention import Grid, rows_attention
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


def beginning_alike(length, seed, common=12):
    """An example whose first tokens others have too, and whose second half is learned."""
    one = example(length, seed)
    ids = np.concatenate([np.arange(5, 5 + common, dtype=np.int32), one.ids])
    return replace(one, ids=ids, labels=np.where(np.arange(len(ids)) < len(ids) // 2 + 3, IGNORED, ids).astype(np.int32))


def learned(one):
    return one.labels[1:] != IGNORED


ALIKE = [beginning_alike(length, seed) for seed, length in enumerate((23, 60, 41))]
EXAMPLES = [example(length, seed) for seed, length in enumerate((23, 5, 60, 41))]


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
    assert batch["targets"].tolist() == [token for one in ALIKE for token in one.ids[1:][learned(one)]]
    same = [ALIKE[0], ALIKE[0]]
    assert flatten(same, share=True)["prefix"] == int(np.argmax(ALIKE[0].labels != IGNORED)) - 1
    assert flatten(EXAMPLES, share=True)["prefix"] == flatten(ALIKE[:1], share=True)["prefix"] == 0


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
    for examples in (EXAMPLES, ALIKE):
        with torch.no_grad():
            alone = torch.cat(
                [base(input_ids=torch.tensor(one.ids[None]).long()).logits[0, :-1][learned(one)] for one in examples]
            )
            for name, share in (("sdpa", False), (attention.register(), False), (attention.register(), True)):
                base.set_attn_implementation(name)
                assert torch.allclose(logits_at(model, flatten(examples, share)), alone, atol=1e-5)
        base.set_attn_implementation("sdpa")


def test_the_check_takes_our_attention_for_a_sound_model(tiny_llama):
    for precision in ("fp32", "bf16"):
        model = load_model(tiny_llama, small_config(Path("unread"), precision=precision))
        assert choose_attention(model, EXAMPLES) == choose_attention(model, ALIKE) == attention.NAME


@pytest.mark.parametrize("leak", ["strong", "faint"])
def test_the_check_trains_row_by_row_where_rows_would_see_each_other(tiny_llama, leak):
    model = load_model(tiny_llama, small_config(Path("unread"), precision="bf16"))
    base, forward = model.get_base_model(), model.get_base_model().forward

    def strong(position_ids, logits_to_keep, **inputs):
        return forward(position_ids=torch.arange(position_ids.shape[1])[None], logits_to_keep=logits_to_keep, **inputs)

    def faint(position_ids, logits_to_keep, input_ids, **inputs):
        out = forward(position_ids=position_ids, logits_to_keep=logits_to_keep, input_ids=input_ids, **inputs)
        out.logits += 1e-3 * (input_ids * torch.arange(input_ids.shape[1])).sum() % 7
        return out

    base.forward = {"strong": strong, "faint": faint}[leak]
    base.config.sliding_window = {"strong": 4096, "faint": None}[leak]  # with a window our attention is not tried
    assert choose_attention(model, EXAMPLES) == SINGLE
    assert all(batch["rows"] == 1 for batch in micro_batches(EXAMPLES, 1))


@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("width", [40, 300])
def test_our_attention_has_the_gradients_of_sdpa(width, prefix):
    torch.manual_seed(0)
    batch = flatten([beginning_alike(length, seed) for seed, length in enumerate((width, 17))], share=prefix > 0)
    total = batch["input_ids"].shape[1]
    q, k, v = (torch.randn(1, heads, total, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    grid = Grid(batch["slots"], batch["rows"], batch["width"], batch["prefix"])
    ours = rows_attention(torch.nn.Module(), q, k, v, None, row_grid=grid)[0]
    theirs = torch.cat(separate_rows(q, k, v, width if prefix else width + 12, prefix), 2).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)  # softmax is taken in float32
    upstream = torch.randn_like(ours)
    mine, other = (torch.autograd.grad(out, [q, k, v], upstream) for out in (ours, theirs))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, other, strict=True))


def separate_rows(q, k, v, first, prefix):
    """What SDPA says of the prefix, then of each row behind the prefix."""
    head = range(prefix)
    rows = [range(prefix, prefix + first), range(prefix + first, q.shape[2])]
    parts = [sdpa(q, k, v, [*head])] if prefix else []
    return parts + [sdpa(q, k, v, [*head, *row])[:, :, prefix:] for row in rows]


def sdpa(q, k, v, places):
    chosen = [tensor[:, :, places] for tensor in (q, k, v)]
    return torch.nn.functional.scaled_dot_product_attention(*chosen, is_causal=True, enable_gqa=True)


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
