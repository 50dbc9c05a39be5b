"""The estimate of what a pass keeps, against the bytes that autograd does keep."""

import json

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from adreg.train.model.fused import fuse
from adreg.train.model.load import load_model
from adreg.train.steps.forward import summed_loss
from adreg.train.steps.layout import choose_layout
from adreg.train.steps.memory import HEAD_SLICE, Shape, activation_bytes
from tests.builders import build_checkpoint
from tests.train.steps.rows import example, settings


def kept_bytes(model, batch):
    """What is kept for the way back beside the weights, each piece of memory once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = summed_loss(model, batch)
    assert loss.requires_grad
    return sum(size for pointer, (size, _) in kept.items() if pointer not in weights)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("llama", {"hidden_size": 192, "intermediate_size": 512}),
        ("qwen3", {"hidden_size": 96, "intermediate_size": 512}),
        ("gpt2", {"n_embd": 192}),
        ("gemma2", {"hidden_size": 128, "intermediate_size": 512}),
    ],
)
@pytest.mark.parametrize(("rows", "width"), [(6, 32), (2, 160)])
def test_what_is_kept_is_estimated_within_a_quarter(tmp_path, kind, shape, rows, width):
    base = build_checkpoint(tmp_path / kind, kind, None, dtype=torch.float32, vocab_size=320, **shape)
    model = load_model(base, settings())
    examples = [example(width, seed) for seed in range(rows)]
    layout = choose_layout(model, examples)
    fuse(model)
    found = kept_bytes(model.train(), layout.batch(examples))
    known = Shape.of(json.loads((base / "config.json").read_text()))
    assert 4 * rows * width * known.layers * known.kept(width) == pytest.approx(found, rel=0.25)


def test_checkpointing_and_smaller_batches_take_less():
    config = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    config |= {"num_attention_heads": 9, "num_key_value_heads": 3}
    whole = activation_bytes(config, 1024, 64, 2)
    assert whole == pytest.approx(476 * 2**20, rel=0.25)  # resident memory, measured on SmolLM2-135M
    assert activation_bytes(config, 1024, 64, 2, checkpointing=True) < whole / 3
    assert activation_bytes(config, 512, 64, 2) - HEAD_SLICE == (whole - HEAD_SLICE) / 2
