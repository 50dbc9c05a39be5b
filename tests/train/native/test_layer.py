"""Layers in C against the same layers operation by operation, both against float32."""

from typing import Any

import pytest
import torch

from adreg.train.config import check_config
from adreg.train.model import attention, decoder
from adreg.train.model.fused import fuse
from adreg.train.model.load import load_model
from adreg.train.native.library import Threads
from adreg.train.steps.batch import Layout
from adreg.train.steps.forward import summed_loss
from tests.builders import build_checkpoint
from tests.train.steps.rows import example, loss_and_gradients, stirred

pytestmark = pytest.mark.skipif(not decoder.available(), reason="no processor that multiplies bfloat16, or no compiler")
WIDTHS = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
OTHER = {**WIDTHS, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
BASES = {
    "llama": ("llama", WIDTHS),
    "head 32": ("llama", OTHER),
    "qwen2": ("qwen2", WIDTHS | {"use_sliding_window": False}),
}
ROWS = {
    "one": [example(33, 1)],
    "one token": [example(2, 1)],
    "unequal": [example(length, seed) for seed, length in enumerate((23, 5, 60, 41))],
    "long": [example(length, seed) for seed, length in enumerate((231, 97))],
    "a common beginning": [example(length, seed, common=19) for seed, length in enumerate((23, 7, 40))],
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"targets": "all-linear"},
    "attention": {"targets": ["q_proj", "v_proj", "o_proj"]},
    "odd ranks": {
        "targets": "all-linear",
        "r": 3,
        "rank_pattern": {"k_proj": 1, "up_proj": 33},
        "alpha_pattern": {"v_proj": 2},
    },
    "rslora": {"targets": ["down_proj", "gate_proj"], "r": 16, "rslora": True},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: build_checkpoint(folder / name, kind, None, **widths) for name, (kind, widths) in BASES.items()}


@pytest.fixture
def calls(monkeypatch):
    """How often a layer was computed in C."""
    seen, run = [], Threads.run

    def counted(self, *given):
        seen.append(given)
        run(self, *given)

    monkeypatch.setattr(Threads, "run", counted)
    return seen


def opened(base, precision: str, lora: dict[str, Any], fused: bool = True) -> Any:
    model = stirred(load_model(base, check_config({"train": {"precision": precision}, "lora": lora})))
    model.get_base_model().set_attn_implementation(attention.register())
    if fused:
        fuse(model)
    return model.train()


def answer(model: Any, rows) -> torch.Tensor:
    """The loss and all gradients, one after the other."""
    loss, gradients = loss_and_gradients(model, summed_loss(model, Layout(attention.NAME, share=True).batch(rows)))
    return torch.cat([torch.tensor([loss]), *(gradients[name].flatten().float() for name in sorted(gradients))])


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found[1:] - expected[1:]).norm() / expected[1:].norm())


def compare(base, lora, rows, monkeypatch, calls) -> None:
    exact = answer(opened(base, "fp32", lora, fused=False), rows)
    assert not calls
    native = answer(opened(base, "bf16", lora), rows)
    assert len(calls) == 4
    monkeypatch.setattr(decoder, "available", lambda: False)
    stepwise = answer(opened(base, "bf16", lora), rows)
    assert len(calls) == 4
    assert apart(native, exact) <= max(1.2 * apart(stepwise, exact), 0.005)
    assert apart(native, exact) < 0.04
    assert float(native[0]) == pytest.approx(float(exact[0]), rel=0.01)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("rows", ROWS)
def test_losses_and_gradients_are_nearer_to_float32_than_operation_by_operation(bases, name, rows, monkeypatch, calls):
    compare(bases[name], ADAPTERS["all"], ROWS[rows], monkeypatch, calls)


@pytest.mark.parametrize("lora", ADAPTERS)
def test_every_choice_of_layers_and_ranks_is_computed(bases, lora, monkeypatch, calls):
    compare(bases["qwen2"], ADAPTERS[lora], ROWS["unequal"], monkeypatch, calls)


def test_the_number_of_threads_changes_no_bit(bases):
    model, before, found = opened(bases["llama"], "bf16", ADAPTERS["all"]), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(answer(model, ROWS["a common beginning"]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_row_has_the_same_gradients_whatever_came_before(bases):
    model = opened(bases["llama"], "bf16", ADAPTERS["odd ranks"])
    alone = answer(model, ROWS["one"])
    for rows in ("long", "a common beginning", "one token"):
        answer(model, ROWS[rows])
    assert torch.equal(answer(model, ROWS["one"]), alone)


@pytest.mark.parametrize(
    ("precision", "lora"), [("fp32", {}), ("bf16", {"dropout": 0.1}), ("bf16", {"targets": ["q_proj"], "dora": True})]
)
def test_what_it_cannot_compute_goes_the_layers_own_way(bases, precision, lora, calls):
    assert answer(opened(bases["llama"], precision, lora), ROWS["unequal"]).isfinite().all()
    assert not calls


def test_a_disabled_adapter_is_the_base(bases, calls):
    model = opened(bases["llama"], "bf16", ADAPTERS["all"])
    batch = Layout(attention.NAME).batch(ROWS["unequal"])
    with torch.no_grad():
        with model.disable_adapter():
            off = summed_loss(model, batch)
        stirred(model, 0.0)
        assert torch.equal(summed_loss(model, batch), off)
    assert len(calls) == 4
