"""What folding refuses, by name; and what a merge of several adapters may do together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.export.changes.source import Source
from adreg.export.targets import assign, config_changes
from adreg.formats.adapters.others import open_any_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.export.folding import CASES, whole

PREFIX = "base_model.model."


@pytest.fixture
def altered(fold_bases, fold_adapters, tmp_path_factory):
    """A function that copies a case's adapter with other settings and tensors, and assigns it."""

    def alter(name, settings=None, tensors=None, base=None, weight=1.0):
        folder = shutil.copytree(fold_adapters(name), tmp_path_factory.mktemp("altered") / "copy")
        path, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | (settings or {})))
        save_file((tensors or dict)(load_file(path)), path)
        checkpoint = open_checkpoint(base or fold_bases[CASES[name].base])
        return checkpoint, assign(checkpoint, [Source(open_any_adapter(folder), weight, "mine")])

    return alter


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def cut(part, *shape):
    """The tensors whose names end in `part` with fewer rows and columns."""
    slices = tuple(slice(size) for size in shape)
    return lambda given: {n: t[slices].contiguous() if n.endswith(part) else t for n, t in given.items()}


def again(part, other):
    """The tensors whose names end in `part` also under names that end in `other`."""
    return lambda given: given | {n.replace(part, other): t.clone() for n, t in given.items() if n.endswith(part)}


@pytest.mark.parametrize(
    ("name", "settings", "tensors", "error", "words"),
    [
        ("linear", {"init_lora_weights": "pissa_niter_4"}, None, UnsupportedError, "init_lora_weights=pissa_niter_4"),
        ("linear", {"init_lora_weights": "olora"}, None, UnsupportedError, "olora"),
        ("linear", {"init_lora_weights": "corda"}, None, UnsupportedError, "corda"),
        ("linear", {"init_lora_weights": "loftq"}, None, UnsupportedError, "loftq"),
        ("linear", {"layer_replication": [[0, 2], [1, 2]]}, None, UnsupportedError, "layer_replication"),
        ("linear", {"alora_invocation_tokens": [3]}, None, UnsupportedError, "alora_invocation_tokens"),
        ("linear", {"use_dora": True}, None, FormatError, "use_dora"),
        ("linear", {"lora_bias": True}, None, FormatError, "lora_bias"),
        ("dora", {"use_dora": False}, None, FormatError, "use_dora"),
        ("dora", None, without("layers.0.self_attn.q_proj.lora_magnitude"), FormatError, r"layers\.0\.self_attn\.q_proj"),
        ("dora", None, cut("lora_magnitude_vector", 9), FormatError, r"lora_magnitude_vector' has shape \(9,\)"),
        ("dora", None, again("magnitude_vector", "magnitude_vector.weight"), FormatError, "magnitude_vector' is no adapter"),
        ("embedding", None, again("lora_embedding_A", "lora_A.weight"), FormatError, "embed_tokens.lora_A"),
        ("patterns", {"rank_pattern": {}}, None, FormatError, "rank 2"),
        ("saved-norms", None, cut("norm.weight", 9), FormatError, "saves '.*norm.weight' as BF16"),
        ("saved-norms", {"modules_to_save": None}, None, FormatError, "norm.weight' is no adapter parameter"),
        ("bias-all", {"bias": "none"}, None, FormatError, "bias' is no adapter parameter"),
        ("tokens", {"trainable_token_indices": [3, 1, 96]}, None, FormatError, "embed_tokens"),
        ("tokens", {"trainable_token_indices": [3, 1, 1]}, None, FormatError, "twice"),
        ("tokens", {"trainable_token_indices": [3, 1]}, None, FormatError, "shape"),
        ("tokens", {"trainable_token_indices": {"wte": [3, 1, 90]}}, None, FormatError, "does not name them"),
        ("saved-tables", None, cut("lm_head.weight", 90), UnsupportedError, "96 rows of .* and 90 of 'lm_head.weight'"),
        ("experts-mixtral", None, cut("experts.lora_B.weight", 30), FormatError, "no stacked parameter"),
        ("experts-mixtral", {"target_parameters": []}, None, FormatError, "no stacked parameter"),
        ("adalora", {"orthogonal_twist": 1}, None, UnsupportedError, "orthogonal_twist=1"),
        ("adalora", None, cut("lora_E", 2), FormatError, "lora_E"),
        ("vera", None, without("base_model.vera_"), UnsupportedError, "projections"),
        ("vera", None, cut("vera_A", 4, 20), FormatError, "too small"),
        ("loha", None, cut("hada_w2_b", 2), FormatError, "hada_w2"),
        ("lokr", None, without("layers.0.self_attn.q_proj.lokr_w2"), FormatError, r"layers\.0\.self_attn\.q_proj"),
        ("ia3", None, cut("q_proj.ia3_l", 9), FormatError, "q_proj"),
        ("oft", {"coft": True}, None, UnsupportedError, "coft"),
        ("oft", None, cut("oft_R.weight", 3), FormatError, "rotates 3 x 8 inputs"),
        ("layernorm", None, cut("weight", 9), FormatError, "shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused_by_name(name, settings, tensors, error, words, altered):
    with pytest.raises(error, match=words):
        altered(name, settings, tensors)


def test_a_family_without_weights_to_merge_is_refused(fold_bases, tmp_path):
    import peft

    from tests.export.folding import load_model

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(load_model(fold_bases["llama"]), config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="prompt tuning"):
        assign(open_checkpoint(fold_bases["llama"]), [Source(open_any_adapter(tmp_path))])


def test_the_experts_of_an_unknown_model_and_a_bias_that_the_base_lacks_are_refused(altered, fold_bases, tmp_path):
    other = shutil.copytree(fold_bases["mixtral"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "dbrx"}))
    with pytest.raises(UnsupportedError, match="experts of a dbrx"):
        altered("experts-mixtral", base=other)
    with pytest.raises(FormatError, match=r"q_proj\.bias.*does not have"):
        altered("lora-bias", base=fold_bases["tied"])


@pytest.mark.parametrize("name", ["dora", "ia3", "oft", "saved-tables", "tokens", "layernorm"])
def test_what_does_not_add_takes_its_whole_weight_and_no_other_adapter_beside_it(name, altered, fold_bases, fold_adapters):
    with pytest.raises(UsageError, match="only its full weight"):
        altered(name, weight=0.5)
    base = open_checkpoint(fold_bases["llama"])
    sources = [Source(open_any_adapter(fold_adapters(one)), 1.0, label) for one, label in ((name, "one"), (name, "two"))]
    with pytest.raises(UnsupportedError, match="merging one and two"):
        assign(base, sources)


def test_adapters_that_add_are_summed_before_one_rounding(fold_bases, fold_adapters):
    base, names = open_checkpoint(fold_bases["llama"]), ("linear", "rslora", "loha", "lokr", "vera", "adalora")
    sources = [Source(open_any_adapter(fold_adapters(name)), weight, name) for weight, name in enumerate(names, start=-2)]
    together, alone = assign(base, sources), [assign(base, [source]) for source in sources]
    for name, view in base.items():
        exact = view.float32().astype(np.float64)
        exact = exact + sum(whole(folds[name]).astype(np.float64) - view.float32() for folds in alone)
        np.testing.assert_allclose(whole(together[name]), exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))


def test_tables_that_were_saved_unasked_are_taken(altered):
    for name, settings in (("saved-tables", None), ("saved-tied-alike", "lm_head.weight"), ("saved-tied-alike", None)):
        base, expected = altered(name)
        _, folds = altered(name, {"modules_to_save": None}, without(settings) if settings else None)
        assert folds.keys() == expected.keys() == base.keys()
        assert all(np.array_equal(whole(folds[name]), whole(expected[name])) for name in base)


def test_a_vocabulary_that_has_grown_on_both_sides_is_taken(altered):
    def grow(tensors):
        return {n: t.repeat(2, 1)[:104] if t.shape[0] == 96 else t for n, t in tensors.items()}

    for name in ("saved-tables", "saved-tied-alike"):
        base, folds = altered(name, tensors=grow)
        assert config_changes(base, folds) == {"vocab_size": 104}
        assert {folded.shape for folded in folds.values() if folded.shape[0] in (96, 104)} == {(104, 32)}
        table = whole(folds["model.embed_tokens.weight"])
        assert np.array_equal(table[96:], table[:8]) and folds["model.embed_tokens.weight"].dtype == "BF16"


def test_the_audit_calls_mergeable_what_the_merge_folds():
    from adreg.export.changes.families import FAMILIES
    from adreg.formats.adapters.mergeable import KINDS

    assert set(FAMILIES) == KINDS
