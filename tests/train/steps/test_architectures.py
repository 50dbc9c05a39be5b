"""Rows end to end, fused, give every architecture the step losses and gradients of a plain padded pass in eager attention."""

from typing import Any

import pytest
import torch

from adreg.train.model.fused import fuse
from adreg.train.model.head import loss_head
from adreg.train.model.load import load_model
from adreg.train.steps.layout import choose_layout
from tests.builders import build_checkpoint
from tests.train.steps.rows import assert_alike, example, loss_and_gradients, padded_loss, settings, step, stirred

WINDOW = {"sliding_window": 16}
KINDS: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {},
    "gemma3": {},
    "gemma3_text": {},
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "llama": {},
    "mistral": WINDOW,
    "phi3": WINDOW,
    "qwen2": {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {},
}
ROWS = [example(length, seed, common=12) for seed, length in enumerate((23, 60, 41, 7))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_that_of_a_padded_pass(tmp_path, kind):
    vocabulary = {} if kind == "gemma3" else {"vocab_size": 320}
    base = build_checkpoint(tmp_path / kind, kind, None, dtype=torch.float32, **vocabulary, **KINDS[kind])
    model = stirred(load_model(base, settings())).train()
    stock = model.config._attn_implementation
    model.get_base_model().set_attn_implementation("eager")
    expected, gradients = loss_and_gradients(model, padded_loss(model, ROWS))
    model.get_base_model().set_attn_implementation(stock)
    layout = choose_layout(model, ROWS)
    assert layout.attention == "adreg_rows" and layout.share
    assert (loss_head(model) is None) == (kind == "gemma2")  # whose logits are capped
    assert fuse(model) > 0
    loss, found = loss_and_gradients(model.train(), step(model, layout.micro_batches(ROWS, 100)))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_alike(found, gradients, 1e-4)
