"""Folding against PEFT's own `merge_and_unload`, feature by feature, and what must hold of every feature."""

from __future__ import annotations

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import AdregError, FormatError
from adreg.export.changes.source import Source
from adreg.export.targets import assign, config_changes, unties
from adreg.formats.adapters.adapter import Adapter, assemble_adapter
from adreg.formats.adapters.others import open_any_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.export.folding import (
    CASES,
    UNTYING,
    build_case,
    fold,
    load_model,
    peft_merge,
    peft_model,
    rounded,
    whole,
)

LATER_LAYERS = (".layers.1.", ".h.1.")
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("name", CASES)
def test_a_fold_is_what_peft_merges(name, fold_bases, fold_adapters, tmp_path):
    base, adapter = fold_bases[CASES[name].base], fold_adapters(name)
    _, folds = fold(base, adapter)
    if CASES[name].bits:
        theirs = peft_merge(base, adapter, tmp_path / "merged")
        ours = {name: rounded(whole(folded), folded.dtype) for name, folded in folds.items()}
        assert ours.keys() == theirs.keys()
        assert [name for name, expected in theirs.items() if not np.array_equal(ours[name], expected)] == []
    else:
        # PEFT rounds these updates to the base's type before it adds them, or multiplies in float32; on a float32 base
        # only the order of a few additions is another
        theirs = peft_merge(base, adapter, tmp_path / "merged", dtype="float32")
        assert folds.keys() == theirs.keys()
        for name, expected in theirs.items():
            np.testing.assert_allclose(whole(folds[name]), expected, rtol=0, atol=3e-7 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", UNTYING)
def test_a_tied_base_gets_a_head_of_its_own_and_behaves_as_the_adapter_on_it(name, fold_bases, tmp_path):
    import torch

    case = UNTYING[name]
    base, adapter = fold_bases[case.base], build_case(case, fold_bases[case.base], tmp_path / name)
    checkpoint, folds = fold(base, adapter)
    assert unties(checkpoint, folds) and config_changes(checkpoint, folds) == {"tie_word_embeddings": False}
    assert folds.keys() == {*checkpoint, "lm_head.weight"}
    merged = load_model(base, dtype="float32", tie_word_embeddings=False)
    merged.load_state_dict({name: torch.tensor(whole(folded)) for name, folded in folds.items()})
    ids = torch.arange(96)[None, ::3]
    with torch.inference_mode():
        expected = peft_model(base, adapter, dtype="float32").eval()(ids).logits
        assert torch.allclose(merged.eval()(ids).logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_a_pruned_adalora_keeps_the_scaling_of_the_rank_it_started_with(fold_bases, fold_adapters, tmp_path):
    adapter = shutil.copytree(fold_adapters("adalora"), tmp_path / "pruned")
    tensors, config = load_file(adapter / WEIGHTS), json.loads((adapter / "adapter_config.json").read_text())
    kept, module = [True, False, True, True, False, False], "model.layers.0.self_attn.q_proj"
    for part, rows in (("A", (kept,)), ("E", (kept,)), ("B", (slice(None), kept))):
        name = f"base_model.model.{module}.lora_{part}"
        tensors[name] = tensors[name][rows].contiguous()
    save_file(tensors, adapter / WEIGHTS)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {f"{module}.lora_E": kept}}))
    _, folds = fold(fold_bases["llama"], adapter)
    # on a bf16 base PEFT rounds the pruned parameters when it loads them
    theirs = peft_merge(fold_bases["llama"], adapter, tmp_path / "merged", dtype="float32")
    name = f"{module}.weight"
    assert folds[name].adapted
    np.testing.assert_allclose(whole(folds[name]), theirs[name], rtol=0, atol=3e-7)


def test_a_tied_base_whose_two_sides_are_adapted_alike_stays_tied(fold_bases, tmp_path):
    adapter = build_case(UNTYING["both"], fold_bases["tied"], tmp_path / "both")
    tensors, head, table = load_file(adapter / WEIGHTS), "base_model.model.lm_head", "base_model.model.model.embed_tokens"
    tensors[f"{head}.lora_A.weight"] = tensors[f"{table}.lora_embedding_B"].T.contiguous()
    tensors[f"{head}.lora_B.weight"] = tensors[f"{table}.lora_embedding_A"].T.contiguous()
    save_file(tensors, adapter / WEIGHTS)
    checkpoint, folds = fold(fold_bases["tied"], adapter)
    assert folds["model.embed_tokens.weight"].adapted and not unties(checkpoint, folds)
    assert folds.keys() == checkpoint.keys() and config_changes(checkpoint, folds) == {}


def test_a_tied_base_whose_files_hold_the_head_too_is_still_tied(fold_bases, fold_adapters, tmp_path):
    copied = shutil.copytree(fold_bases["tied"], tmp_path / "copied")
    tensors = load_file(copied / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, copied / "model.safetensors")
    base, folds = fold(copied, fold_adapters("linear-tied"))
    assert not unties(base, folds) and not folds["lm_head.weight"].adapted
    for name, gone in (("tokens-tied", True), ("saved-tied-alike", True), ("saved-tied-table", False)):
        base, folds = fold(copied, fold_adapters(name))
        assert unties(base, folds) is not gone and ("lm_head.weight" in folds) is not gone
    _, plain = fold(fold_bases["tied"], fold_adapters("saved-tied-table"))
    assert np.array_equal(whole(folds["lm_head.weight"]), whole(plain["lm_head.weight"]))


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_any_rows_from_any_thread_make_the_whole(name, fold_bases, fold_adapters):
    _, folds = fold(fold_bases[CASES[name].base], fold_adapters(name))
    _, again = fold(fold_bases[CASES[name].base], fold_adapters(name))
    for name, folded in folds.items():
        rows, expected = range(0, folded.shape[0], 7), whole(folded)
        with ThreadPoolExecutor(4) as pool:
            blocks = list(pool.map(lambda start, of=again[name]: of.block(start, min(start + 7, of.shape[0])), rows))
        np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=3e-7 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_of_an_adapter_counts(name, fold_bases, fold_adapters):
    base, adapter = open_checkpoint(fold_bases[CASES[name].base]), open_any_adapter(fold_adapters(name))
    before = {name: whole(folded) for name, folded in assign(base, [Source(adapter)]).items()}
    for key, view in adapter.file.items():
        if any(layer in key for layer in LATER_LAYERS):
            continue
        flipped = np.frombuffer(view.data, np.uint8).reshape(view.count, -1).copy()
        flipped[:, -1] ^= 0x80
        other = replace(view, data=memoryview(flipped.tobytes()))
        changed = _with_tensors(adapter, {**adapter.file.tensors, key: other})
        try:
            after = assign(base, [Source(changed)])
        except FormatError as refused:
            assert refused.rule == "K-KEY-6", key
        else:
            assert any(n not in before or not np.array_equal(before[n], whole(folded)) for n, folded in after.items()), key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_proj.weight", "lm_head.lora_C.weight", "ia3_l"])
def test_a_tensor_too_many_is_refused_by_name(name, key, fold_bases, fold_adapters):
    base, adapter = open_checkpoint(fold_bases[CASES[name].base]), open_any_adapter(fold_adapters(name))
    extra = f"base_model.model.{key}"
    first = next(iter(adapter.file.values()))
    changed = _with_tensors(adapter, {**adapter.file.tensors, extra: replace(first, name=extra)})
    with pytest.raises(FormatError, match=key):
        assign(base, [Source(changed)])


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_of_any_other_shape_is_refused_by_name_or_harmless(name, fold_bases, fold_adapters):
    base, adapter = open_checkpoint(fold_bases[CASES[name].base]), open_any_adapter(fold_adapters(name))
    for key, view in adapter.file.items():
        if any(layer in key for layer in LATER_LAYERS):
            continue
        for shape in ((), (0,), (1,), (view.count,), (*view.shape, 1), (1, 1, *view.shape), view.shape[::-1]):
            other = replace(view, shape=shape, data=view.data[: view.nbytes // view.count * math.prod(shape)])
            try:
                folds = assign(base, [Source(_with_tensors(adapter, {**adapter.file.tensors, key: other}))])
            except AdregError:
                continue
            for folded in folds.values():
                whole(folded)


def _with_tensors(adapter, tensors):
    file = replace(adapter.file, tensors=tensors)
    return assemble_adapter(adapter.config, file) if isinstance(adapter, Adapter) else replace(adapter, file=file)
