"""The output layer that tells losses, against cross-entropy of all its logits."""

import pytest
import torch
import torch.nn.functional as F

from adreg.train.model import head
from adreg.train.model.head import TokenLosses, fuse_head, loss_head, release_head
from adreg.train.model.load import load_model
from adreg.train.steps.batch import Layout
from adreg.train.steps.forward import logits_at, token_losses
from tests.train.steps.rows import example, settings


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_losses_and_gradients_are_those_of_cross_entropy(monkeypatch, dtype, share, bias):
    monkeypatch.setattr(head, "LEAST_SLICE", 70)
    monkeypatch.setattr(head, "SLICE_ELEMENTS", {"cpu": 1})
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 32), torch.randn(1001, 32), torch.randint(0, 1001, (40,))
    targets[:2] = torch.tensor([0, 1000])
    hidden[5] *= 100  # a token that is all but certain
    offset, upstream = torch.randn(1001) if bias else None, torch.randn(40)
    exact = hidden.to(dtype).double().requires_grad_()
    logits = F.linear(exact, weight.to(dtype).double(), None if offset is None else offset.to(dtype).double())
    expected = F.cross_entropy(logits, targets, reduction="none")
    (slope,) = torch.autograd.grad(expected, exact, upstream.double())
    given = hidden.to(dtype).requires_grad_()
    found = TokenLosses.apply(given, weight.to(dtype), None if offset is None else offset.to(dtype), targets)
    (ours,) = torch.autograd.grad(found, given, upstream)
    assert found.dtype == torch.float32 and ours.dtype == dtype
    assert (found - expected).norm() <= share * expected.norm()
    assert (ours - slope).norm() <= share * slope.norm()


def test_the_head_tells_losses_only_while_asked(tiny_llama):
    model = load_model(tiny_llama, settings()).eval()
    batch = Layout("sdpa").batch([example(30, 1), example(12, 2)])
    expected = F.cross_entropy(logits_at(model, batch).float(), batch["targets"], reduction="none")
    assert fuse_head(model) and fuse_head(model)
    assert torch.allclose(token_losses(model, batch), expected, rtol=1e-6)
    assert logits_at(model, batch).shape == (len(expected), 49152)
    release_head(model)
    assert loss_head(model) is None


def test_a_trained_head_keeps_its_logits(tiny_llama):
    model = load_model(tiny_llama, settings(targets=["q_proj", "lm_head"]))
    assert not fuse_head(model)
