from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from adreg.errors import ConflictError, FormatError
from adreg.export.changes.source import Source
from adreg.export.fold import folded
from adreg.export.plan import plan_merge
from adreg.export.run import run_merge
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import INDEX, open_checkpoint
from tests.builders import build_adapter, build_checkpoint
from tests.export.merging import merge, peft_merged, request, source

SAVES_EMBEDDINGS = pytest.mark.filterwarnings("ignore:(Setting `save_embedding_layers`|Model has `tie_word_embeddings=True`)")


@pytest.mark.parametrize(
    ("base", "adapter"),
    [("tiny_llama", "llama_adapter"), ("tiny_llama", "other_adapter"), ("tiny_gpt2", "gpt2_adapter")],
    ids=["bf16", "rslora-and-patterns", "conv1d"],
)
def test_a_merged_checkpoint_is_what_peft_makes_bit_for_bit(base, adapter, tmp_path, request):
    base, adapter = request.getfixturevalue(base), request.getfixturevalue(adapter)
    merge(base, adapter, output=tmp_path / "out", target="safetensors")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    theirs = peft_merged(base, adapter).state_dict()
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert torch.equal(ours[name], expected), name


@SAVES_EMBEDDINGS
def test_an_embedding_lora_lies_within_one_step_of_peft_which_rounds_its_update_too(tmp_path, tokenizer_folder):
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder, tie_word_embeddings=False, vocab_size=49152)
    adapter = build_adapter(base, tmp_path / "adapter", seed=5, target_modules=["embed_tokens", "lm_head"])
    merge(base, adapter, output=tmp_path / "out", target="safetensors")
    ours, theirs = open_checkpoint(tmp_path / "out"), peft_merged(base, adapter).state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        expected = theirs[name].float().numpy()
        assert np.abs(ours[name].float32() - expected).max() <= 2**-7 * np.abs(expected).max()  # a step of bf16
        assert (ours[name].float32() == expected).mean() > 0.6


def test_several_adapters_add_up_to_the_float64_sum_rounded_once(tiny_llama, llama_adapter, other_adapter, tmp_path):
    sources = [source(llama_adapter, 0.7), source(other_adapter, -1.5)]
    merge(tiny_llama, *sources, output=tmp_path / "out", target="safetensors")
    base, merged = open_checkpoint(tiny_llama), open_checkpoint(tmp_path / "out")
    exact = {name: view.float32().astype(np.float64) for name, view in base.items()}
    for given in sources:
        for module in given.adapter.modules:
            update = module.b.float32().astype(np.float64) @ module.a.float32().astype(np.float64)
            exact[module.weight] += given.weight * module.scaling * update
    for name, expected in exact.items():
        half_a_step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(expected), 1e-30))) - 8)
        assert np.all(np.abs(merged[name].float32() - expected) <= half_a_step + 1e-6), name


def test_shards_and_every_file_beside_them_are_carried(tokenizer_folder, tmp_path):
    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder, shards=3, tie_word_embeddings=False)
    adapter = build_adapter(base, tmp_path / "adapter", seed=6, target_modules=["q_proj"])
    merge(base, adapter, output=tmp_path / "out", target="safetensors", provenance={"base.weights_id": "b3:00"})
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in base.iterdir()} | {
        "adreg.json",
        "README.md",
    }
    shards = [(shard.path.name, list(shard)) for shard in open_checkpoint(base).shards]
    assert len(shards) > 1
    assert [(shard.path.name, list(shard)) for shard in open_checkpoint(tmp_path / "out").shards] == shards
    assert '"base.weights_id": "b3:00"' in (tmp_path / "out" / "adreg.json").read_text()


def test_a_limit_on_the_size_of_shards_is_kept_and_transformers_loads_them(tiny_llama, llama_adapter, tmp_path):
    merge(tiny_llama, llama_adapter, output=tmp_path / "one", target="safetensors")
    limit = 100_000
    merge(tiny_llama, llama_adapter, output=tmp_path / "many", target="safetensors", max_shard_size=limit)
    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    sizes = [sum(view.nbytes for view in shard.values()) for shard in many.shards]
    assert len(sizes) > 2 and all(size <= limit for size, shard in zip(sizes, many.shards, strict=True) if len(shard) > 1)
    assert json.loads((tmp_path / "many" / INDEX).read_text())["metadata"]["total_size"] == sum(sizes)
    assert {name: bytes(view.data) for name, view in one.items()} == {name: bytes(view.data) for name, view in many.items()}
    AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    merge(tmp_path / "many", llama_adapter, output=tmp_path / "again", target="safetensors", max_shard_size=1 << 30)
    assert [shard.path.name for shard in open_checkpoint(tmp_path / "again").shards] == ["model.safetensors"]
    assert not (tmp_path / "again" / INDEX).exists()


def test_the_card_names_base_adapters_and_ids_and_keeps_the_licence(tiny_llama, llama_adapter, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nTheirs.\n")
    ids = {"base.weights_id": "b3:12", "adapter.0.digest": "sha256:34"}
    merge(base, source(llama_adapter, 0.5), output=tmp_path / "out", target="safetensors", base_name="org/x|y", provenance=ids)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: apache-2.0" in card and "org/x\\|y" in card and "| one | 0.5 |" in card
    assert "b3:12" in card and "sha256:34" in card and "Theirs" not in card


def test_an_adapter_of_a_quantised_base_is_told_with_what_its_rounding_does(tiny_llama, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "qlora")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "unsloth/some-bnb-4bit"}))
    plan = plan_merge(request(tiny_llama, folder, llama_adapter, output=tmp_path / "out", target="safetensors"))
    (told,) = plan.describe()["quantised_trainings"]
    assert (told["label"], told["base"]) == ("qlora", "unsloth/some-bnb-4bit")
    # QLoRA's error on normal values
    assert 0.08 < told["rounding"] < 0.11
    assert told["update"] > 0


def test_blocks_of_rows_make_the_whole(tiny_gpt2, gpt2_adapter, tiny_llama, llama_adapter, tmp_path, monkeypatch):
    for base, adapter in ((tiny_gpt2, gpt2_adapter), (tiny_llama, llama_adapter)):
        plan = plan_merge(request(base, adapter, output=tmp_path / "out", target="safetensors"))
        for output in (tensor.output for tensor in plan.tensors if tensor.adapted):
            whole = output.block(0, output.shape[0])
            with monkeypatch.context() as patch:
                patch.setattr(folded, "BLOCK_ELEMENTS", 1000)
                blocks = [output.block(start, stop) for start, stop in output.spans()]
            assert len(blocks) > 1
            np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=1e-6)


def test_an_interrupted_merge_leaves_nothing(tiny_llama, llama_adapter, tmp_path):
    class Interrupting:
        @contextmanager
        def task(self, title, total=None, unit=""):
            yield self

        def advance(self, amount=1, note=""):
            if "layers.1" in note or "blk.1" in note:
                raise KeyboardInterrupt

    for target, name in (("safetensors", "out"), ("gguf", "out"), ("gguf", "out.gguf")):
        plan = plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "here" / name, target=target))
        with pytest.raises(KeyboardInterrupt):
            run_merge(plan, Interrupting())
        assert list((tmp_path / "here").iterdir()) == []


def test_what_exists_is_not_overwritten(tiny_llama, llama_adapter, tmp_path):
    with pytest.raises(ConflictError):
        plan_merge(request(tiny_llama, llama_adapter, output=tiny_llama, target="safetensors"))
    (tmp_path / "model.Modelfile").write_text("mine")
    with pytest.raises(ConflictError):
        plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "model.gguf"))


def test_a_merge_that_is_not_finite_is_refused(tiny_llama, llama_adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llama_adapter, tmp_path / "broken")
    tensors = load_file(folder / "adapter_model.safetensors")
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0, 0] = float("inf")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(FormatError, match="no longer finite after merging broken"):
        merge(tiny_llama, Source(open_adapter(folder), 1.0, "broken"), output=tmp_path / "out", target="safetensors")
    assert not (tmp_path / "out").exists()
