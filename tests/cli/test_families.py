"""Adapters of every family go in with their family's name and come out again; what adreg cannot do with them it refuses."""

import json
import shutil
import warnings

import numpy as np
import pytest

from adreg.errors import UnsupportedError
from adreg.formats.adapters.familyspectra import measure
from adreg.formats.adapters.inspection import inspect_folder
from adreg.registry.push import plan_push
from tests.audit.clean import PROMPT, QV, RECIPES, Recipe, build_base, build_one, build_tokenizer

WITHOUT_UPDATE = {"llama IA3": "IA3 scales", "llama OFT": "OFT rotates", "llama prompt": "virtual tokens",
                  "llama prefix": "virtual tokens", "llama P-tuning": "virtual tokens"}  # fmt: skip
NEVER_MERGED = ("prompt", "prefix", "P-tuning")
MADE = {
    **{
        name: recipe for name, recipe in RECIPES.items() if name in ("llama LoHa", "llama OFT", "llama AdaLoRA", "llama prompt")
    },
    "llama LoKr": Recipe(
        "llama", "LoKrConfig", {**QV, "r": 4, "alpha": 6, "decompose_both": True, "alpha_pattern": {"v_proj": 3}}
    ),
    "llama whole LoKr": Recipe("llama", "LoKrConfig", {**QV, "r": 64}),
    "llama IA3": Recipe("llama", "IA3Config", RECIPES["qwen2 IA3"].settings),
    "llama VeRA": Recipe("llama", "VeraConfig", {"target_modules": ["q_proj", "down_proj"], "r": 4}),
    "llama prefix": Recipe("llama", "PrefixTuningConfig", PROMPT),
    "llama P-tuning": Recipe("llama", "PromptEncoderConfig", {**PROMPT, "encoder_hidden_size": 8}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return build_base(folder / "base", "llama", build_tokenizer(folder / "tokenizer"))


@pytest.fixture(scope="module")
def made(base):
    """The folders of one small adapter of each family."""
    tokenizer = base.parent / "tokenizer"
    folders = {name: base.parent / name.replace(" ", "-") for name in MADE}
    for seed, (name, recipe) in enumerate(MADE.items()):
        build_one(folders[name], recipe, base, tokenizer, seed)
        (folders[name] / "adreg.json").unlink(missing_ok=True)
    return folders


def deltas_of(base, folder):
    """PEFT's own dense updates by module, in float64."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    layers = {
        name.removeprefix("base_model.model."): one for name, one in model.named_modules() if hasattr(one, "get_delta_weight")
    }
    return {name: layer.get_delta_weight("default").detach().double().numpy() for name, layer in layers.items()}


@pytest.mark.parametrize("name", sorted(set(MADE) - set(WITHOUT_UPDATE)))
def test_every_spectrum_is_that_of_pefts_dense_update(name, base, made):
    deltas = deltas_of(base, made[name])
    found = measure(inspect_folder(made[name]), {module: delta.shape[1] for module, delta in deltas.items()})
    assert not found.left_out and {one.module for one in found.found} == set(deltas) and deltas
    for one in found.found:
        dense = np.linalg.svd(deltas[one.module], compute_uv=False)
        assert one.shape == deltas[one.module].shape and one.norm == pytest.approx(np.linalg.norm(dense), rel=1e-5)
        assert np.allclose(one.values, dense[: len(one.values)], atol=1e-6 * dense[0])


def test_what_has_no_spectrum_is_left_out_by_name(made, tmp_path):
    for name, reason in WITHOUT_UPDATE.items():
        found = measure(inspect_folder(made[name]), {})
        assert not found.found and all(told.startswith(reason) for told in found.left_out) and found.left_out
    blind = measure(inspect_folder(made["llama VeRA"]), {})
    assert not blind.found and "only its base says" in next(iter(blind.left_out))


@pytest.mark.parametrize("name", MADE)
def test_a_family_is_pushed_shown_and_refused_where_it_cannot_be_applied(name, adreg, base, made, tmp_path):
    assert adreg("base", "add", base, "--name", "tiny").code == 0
    pushed = adreg("push", made[name], "voice", "--base", "tiny")
    assert pushed.code == 0 and "K-CFG-2" in pushed.err
    told = json.loads(adreg("show", "voice", "--json").out)
    family = name.split()[-1]
    assert told["family"].endswith({"prefix": "prefix tuning", "prompt": "prompt tuning"}.get(family, family))
    assert told["parameters"] > 0 and told["family"] in adreg("show", "voice").out
    assert adreg("audit", "voice", "--base", "tiny", "--target", "peft").code == 0
    merging = ["merge", "voice", "-o", tmp_path / "x"]
    for words, error in ((merging, f"a {told['family']} adapter"), (["serve", "voice", "--port", "0"], "adapter type")):
        if words is merging and family not in NEVER_MERGED:
            assert adreg(*words).code == 0  # and llama.cpp has proven it
            continue
        refused = adreg(*words)
        assert refused.code == 4 and "K-CFG-2" in refused.err and told["family"] in refused.err
        forced = adreg(*words, "--allow", "K-CFG-2")
        assert forced.code == 1 and error in forced.err and "PEFT" in forced.err
    assert adreg("pull", "voice", tmp_path / "out").code == 0 and adreg("fsck").code == 0
    drawn = adreg("show", "voice", "--plot", tmp_path / "voice.png")
    assert (drawn.code == 0) is (name not in WITHOUT_UPDATE) is (tmp_path / "voice.png").exists()
    assert WITHOUT_UPDATE.get(name, "wrote") in drawn.err


def test_an_unknown_type_and_a_broken_pattern_are_refused_by_name(made, tmp_path):
    for change, error in (({"peft_type": "HYPE"}, "'HYPE'"), ({"peft_type": None}, "'None'")):
        folder = changed(made["llama LoHa"], tmp_path / error.strip("'"), **change)
        with pytest.raises(UnsupportedError, match=error):
            plan_push(folder)
    endless = changed(made["llama LoHa"], tmp_path / "endless", rank_pattern={"(a+)+$": 4})
    assert "K-CFG-5" in {problem.rule for problem in inspect_folder(endless).problems}


def changed(folder, to, **changes):
    shutil.copytree(folder, to)
    config = to / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return to


def test_a_base_that_nobody_recorded_needs_a_permit_for_everything(adreg, tiny_llama, llama_adapter, tmp_path):
    assert adreg("base", "add", tiny_llama, "--name", "tiny").code == 0 and adreg("push", llama_adapter, "voice").code == 0
    merge = ["merge", "voice", "--base", "tiny", "-o", tmp_path / "out"]
    for words in (merge, [*merge, "--to", "safetensors"], ["serve", "voice", "--base", "tiny", "--port", "0"]):
        refused = adreg(*words)
        assert refused.code == 4 and "B-ID-1" in refused.err and "--allow B-ID-1" in refused.err
    assert adreg(*merge, "--to", "safetensors", "--allow", "B-ID-1").code == 0
    assert adreg(*merge[:-1], tmp_path / "gguf", "--no-verify", "--allow", "B-ID-1").code == 0
    events = [one for one in json.loads(adreg("log", "voice", "--json").out) if one["verb"] == "allowed"]
    assert [(one["operation"], one["verdict"], one["rules"]) for one in events] == [
        ("export", "UNKNOWN", ["B-ID-1"]),
        ("merge", "UNKNOWN", ["B-ID-1"]),
    ]
