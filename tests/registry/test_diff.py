import json

import numpy as np
import pytest

from adreg.formats.adapters.adapter import open_adapter
from adreg.registry.diff import diff_versions
from adreg.registry.effects import compare
from adreg.registry.push import plan_push
from tests.registry.small import MODULES, RUN, recorded, small_adapter, tensors_of


def push(registry, folder, name):
    return registry.adapters.push(plan_push(folder), name, None, None).version


def module(folder, index=0):
    return open_adapter(folder).modules[index]


def dense(lora):
    """The update itself, in float64."""
    return lora.scaling * lora.b.float32().astype(np.float64) @ lora.a.float32().astype(np.float64)


def test_norms_cosines_and_distances_are_those_of_the_updates_themselves(tmp_path):
    one = small_adapter(tmp_path / "one", 1)
    two = small_adapter(tmp_path / "two", 2, r=6, lora_alpha=5, use_rslora=True, alpha_pattern={"layers.1.self_attn.q_proj": 3})
    for index in range(len(MODULES)):
        a, b = dense(module(one, index)), dense(module(two, index))
        found = compare("x", module(one, index), module(two, index))
        largest = max(np.linalg.norm(a), np.linalg.norm(b))
        assert found.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-12)
        assert found.norm_b == pytest.approx(np.linalg.norm(b), rel=1e-12)
        assert found.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
        assert found.distance == pytest.approx(np.linalg.norm(a - b) / largest, rel=1e-12)


def test_a_change_in_the_last_digits_is_neither_lost_nor_made_up(tmp_path):
    tensors = tensors_of(1)
    name = next(iter(tensors))
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nextafter(tensors[name][0, 0], np.float32(10))
    one, two = module(small_adapter(tmp_path / "one", 1)), module(small_adapter(tmp_path / "two", tensors=tensors))
    found, true = compare("x", one, two), np.linalg.norm(dense(one) - dense(two)) / np.linalg.norm(dense(one))
    assert 0 < true < 1e-7 and found.distance == pytest.approx(true, rel=1e-5)
    assert compare("x", one, one).distance == 0.0


def test_an_update_on_another_base_shape_has_no_distance(tmp_path):
    one = module(small_adapter(tmp_path / "one", 1))
    two = module(small_adapter(tmp_path / "two", tensors=tensors_of(2, size=(12, 16))))
    found = compare("x", one, two)
    assert found.cosine is None and found.distance is None and found.norm_b == pytest.approx(np.linalg.norm(dense(two)))


def test_a_diff_names_what_differs_and_nothing_else(registry, tmp_path):
    data = [*RUN["data"], {"path": "more.jsonl", "sha256": "d" * 64, "rows": 3}]
    again = recorded(
        id="20261122-def",
        data=data,
        config={"lora": {"r": 4}, "train": {"epochs": 3}},
        eval={"base": 3.0, "adapter": 1.25},
        parents=[{"digest": "sha256:" + "e" * 64, "reference": "old:1", "relation": "continued"}],
    )
    one = push(registry, small_adapter(tmp_path / "one", 1, record=recorded()), "one")
    tensors = {**tensors_of(1, modules=MODULES[:1]), **tensors_of(3, modules=("model.layers.9.self_attn.q_proj",))}
    two = push(registry, small_adapter(tmp_path / "two", tensors=tensors, lora_alpha=16, lora_dropout=0.1, record=again), "two")
    found = diff_versions(registry, one, two)
    changed = found.changed
    assert changed["configuration"] == {"lora_alpha": (8, 16), "lora_dropout": (None, 0.1), "scalings": ([2.0], [4.0])}
    assert changed["data"] == {"d" * 64: (None, "more.jsonl (3 rows)")}
    assert changed["training"] == {"train.epochs": (2, 3)} and changed["losses"] == {"held-out": (1.5, 1.25)}
    assert changed["lineage"] == {"parents": ([], ["old:1 continued (eeeeeeeeeeee)"])}
    assert (
        set(changed["files"]) == {"adapter_config.json", "adapter_model.safetensors", "adreg.json"} and "labels" not in changed
    )
    assert found.only_a == [MODULES[1]] and found.only_b == ["model.layers.9.self_attn.q_proj"]
    shared = next(effect for effect in found.effects if effect.module == MODULES[0])
    assert shared.cosine == pytest.approx(1.0) and shared.distance == pytest.approx(0.5)
    value = json.loads(json.dumps(found.as_json()))
    assert value["configuration"]["r"] == {"a": 4, "b": 4, "same": True} and not value["identical"]


def test_a_version_does_not_differ_from_itself(registry, tmp_path):
    one = push(registry, small_adapter(tmp_path / "one", 1, record=recorded()), "one")
    found = diff_versions(registry, one, one)
    assert found.changed == {} and found.moved == [] and found.as_json()["identical"]
