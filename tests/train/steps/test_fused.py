"""The fused layers and blocks against PEFT's and transformers' own: outputs, and gradients of A and B, in float32 and bf16."""

from typing import Any

import pytest
import torch

from adreg.train.model.elementwise import ACTIVATIONS, RmsNorm, Rotate
from adreg.train.model.fused import _Forward, fuse, is_plain
from adreg.train.model.load import load_model
from adreg.train.steps.batch import Layout
from adreg.train.steps.forward import summed_loss
from tests.train.steps.rows import assert_alike, example, loss_and_gradients, settings, stirred, trained

ROWS = [example(length, seed, vocabulary=1000) for seed, length in enumerate((23, 5, 60, 41))]
BATCH = Layout("sdpa").batch(ROWS)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True, "r": 4, "alpha": 3},
    "dropout": {"dropout": 0.25},
    "q and v": {"targets": ["q_proj", "v_proj"]},
    "down": {"targets": ["down_proj", "k_proj"]},
    "ranks": {"rank_pattern": {"k_proj": 2, "up_proj": 5}, "alpha_pattern": {"v_proj": 1}},
}


def seeded_loss(model):
    torch.manual_seed(7)
    return loss_and_gradients(model, summed_loss(model, BATCH))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fused_llama_has_peft_s_loss_and_gradients(tiny_llama, variant):
    model = stirred(load_model(tiny_llama, settings(**VARIANTS[variant]))).train()
    expected, gradients = seeded_loss(model)
    assert fuse(model) == len(trained(model)) / 2
    loss, found = seeded_loss(model)
    assert loss == pytest.approx(expected, rel=1e-6)  # the same masks: drawn in the order in which PEFT draws them
    assert_alike(found, gradients, 1e-5)
    model.eval()
    fused, alike = seeded_loss(model)
    for module in model.modules():
        module.__dict__.pop("forward", None)
    expected, gradients = seeded_loss(model)
    assert fused == pytest.approx(expected, rel=1e-6)
    assert_alike(alike, gradients, 1e-5)


@pytest.mark.parametrize("targets", ["auto", "all-linear"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_fused_gpt2_has_peft_s_loss_and_gradients(tiny_gpt2, dropout, targets):
    model = stirred(load_model(tiny_gpt2, settings(targets=targets, dropout=dropout))).train()
    expected, gradients = seeded_loss(model)
    assert fuse(model) == len(trained(model)) / 2
    loss, found = seeded_loss(model)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_alike(found, gradients, 1e-5)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.layers.0.self_attn.o_proj"])
def test_one_layer_is_peft_s_layer(tiny_llama, name, dropout, dtype, share):
    model = stirred(load_model(tiny_llama, settings(dropout=dropout))).train()
    layer = model.base_model.model.get_submodule(name)
    layer.base_layer.to(dtype)
    x = torch.randn(3, 50, layer.in_features, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    upstream = torch.randn(3, 50, layer.out_features, generator=torch.Generator().manual_seed(3)).to(dtype)
    weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]

    def results(forward):
        torch.manual_seed(9)
        out = forward(x)
        return [out, *torch.autograd.grad(out, [x, *weights], upstream)]

    for ours, peft in zip(results(_Forward(layer, layer.forward)), results(layer.forward), strict=True):
        assert ours.dtype == peft.dtype
        assert (ours - peft).float().norm() <= share * peft.float().norm()


def test_other_layers_keep_peft_s_forward(tiny_llama):
    model = load_model(tiny_llama, settings(dora=True))
    assert fuse(model) == 0
    assert not any(is_plain(module) for module in model.modules() if hasattr(module, "lora_A"))
    assert torch.isfinite(summed_loss(model, BATCH))


def test_a_switched_off_adapter_leaves_the_base(tiny_llama):
    model = stirred(load_model(tiny_llama, settings())).eval()
    with model.disable_adapter(), torch.no_grad():
        bare = summed_loss(model, BATCH).item()
    fuse(model)
    with torch.no_grad():
        adapted = summed_loss(model, BATCH).item()
        with model.disable_adapter():
            assert summed_loss(model, BATCH).item() == pytest.approx(bare, rel=1e-6)
    assert adapted != pytest.approx(bare, rel=1e-4)


def test_norm_rotation_and_gates_have_the_gradients_of_their_definitions():
    def norm(x, weight):
        return RmsNorm.apply(x, weight, 1e-6)

    def rotate(x, cos, sin):
        return Rotate.apply(x, cos, sin)

    torch.manual_seed(0)
    x, cos, sin = torch.randn(1, 5, 3, 8, requires_grad=True), torch.randn(1, 5, 1, 8), torch.randn(1, 5, 1, 8)
    weight = torch.randn(8)
    turned = x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin
    scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
    for found, expected in ((rotate(x, cos, sin), turned), (norm(x, weight), scaled)):
        upstream = torch.randn_like(expected)
        assert torch.allclose(found, expected, atol=1e-6)
        ours, theirs = (torch.autograd.grad(out, x, upstream)[0] for out in (found, expected))
        assert torch.allclose(ours, theirs, atol=1e-5)
    for activation in ACTIVATIONS.values():
        upstream = torch.randn_like(x)
        (expected,) = torch.autograd.grad(activation.forward(x), x, upstream)
        assert torch.allclose(activation.backward(upstream, x.detach()), expected, atol=1e-6)
