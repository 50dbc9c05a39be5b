"""Likeness of whole adapters, and the mixtures that they are, against dense updates laid end to end."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.audit.kinship import inner_products, kinships, mixture
from adreg.formats.adapters.adapter import open_adapter

MODULES = {"layers.0.q_proj": (24, 16), "layers.0.v_proj": (8, 16), "layers.1.q_proj": (24, 16)}


def make(folder, factors, rank, alpha=8):
    tensors = {}
    for module, (b, a) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return open_adapter(folder)


def random_factors(seed, rank=4, modules=tuple(MODULES)):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=(MODULES[name][0], rank)), rng.normal(size=(rank, MODULES[name][1]))) for name in modules}


def stacked(weighted):
    """The factors of a sum, side by side."""
    return {
        module: (
            np.hstack([weight * factors[module][0] for weight, factors in weighted]),
            np.vstack([factors[module][1] for _, factors in weighted]),
        )
        for module in MODULES
    }


def vector(adapter):
    """Every update of `adapter`, zero where it has none, as one long vector."""
    found = {module.name: module.scaling * module.b.float32().astype("f8") @ module.a.float32() for module in adapter.modules}
    return np.concatenate([found.get(name, np.zeros(shape)).ravel() for name, shape in MODULES.items()])


def between(adapters):
    return lambda one, others: inner_products(adapters[one], {other: adapters[other] for other in others})[1]


def test_kinship_is_the_dense_cosine_also_where_modules_differ(tmp_path):
    one = make(tmp_path / "one", random_factors(1), 4)
    others = {
        "twice the rank": make(tmp_path / "two", stacked([(1.0, random_factors(1)), (0.7, random_factors(2))]), 8),
        "one module less": make(
            tmp_path / "three", random_factors(1, modules=("layers.0.q_proj", "layers.1.q_proj")), 4, alpha=3
        ),
    }
    found = kinships(one, others)
    assert set(found) == set(others)
    for name, other in others.items():
        expected = vector(one) @ vector(other) / np.linalg.norm(vector(one)) / np.linalg.norm(vector(other))
        assert found[name].cosine == pytest.approx(expected, abs=1e-6)
        assert found[name].norm == pytest.approx(np.linalg.norm(vector(one)), rel=1e-6)
        assert found[name].other_norm == pytest.approx(np.linalg.norm(vector(other)), rel=1e-6)


def test_a_hidden_mixture_of_three_is_found_among_strangers(tmp_path):
    parts = {name: random_factors(seed) for seed, name in enumerate("abcdef")}
    wanted = {"b": 0.5, "d": -0.25, "f": 1.5}
    adapters = {name: make(tmp_path / name, factors, 4) for name, factors in parts.items()}
    merged = make(tmp_path / "merged", stacked([(weight, parts[name]) for name, weight in wanted.items()]), 12, alpha=24)
    found = mixture(kinships(merged, adapters), between(adapters))
    assert found.residual < 1e-3 and found.weights == pytest.approx(wanted, rel=1e-4)


def test_strangers_make_no_mixture(tmp_path):
    adapters = {name: make(tmp_path / name, random_factors(seed), 4) for seed, name in enumerate("abc")}
    stranger = make(tmp_path / "stranger", random_factors(9), 4)
    assert mixture(kinships(stranger, adapters), between(adapters)).residual > 0.9
