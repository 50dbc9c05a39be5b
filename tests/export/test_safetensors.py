from __future__ import annotations

import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from adreg.errors import ConflictError, FormatError
from adreg.export.fold import folded
from adreg.export.plan import plan_merge
from adreg.export.run import run_merge
from adreg.export.targets import Source
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
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
        assert np.abs(ours[name].float32() - expected).max() <= 2**-8 * np.abs(expected).max()
        assert (ours[name].float32() == expected).mean() > 0.8


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
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in base.iterdir()} | {"adreg.json"}
    shards = [(shard.path.name, list(shard)) for shard in open_checkpoint(base).shards]
    assert len(shards) > 1
    assert [(shard.path.name, list(shard)) for shard in open_checkpoint(tmp_path / "out").shards] == shards
    assert '"base.weights_id": "b3:00"' in (tmp_path / "out" / "adreg.json").read_text()


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
