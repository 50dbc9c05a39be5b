"""Every method: it learns, and what is saved gives plain PEFT on the plain base the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from adreg.audit.findings import Finding, Severity
from adreg.audit.run import Speed, judge
from adreg.audit.subject import Subject
from adreg.errors import UnsupportedError
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.adapters.inspection import inspect_folder
from adreg.train.data.encode import Encoder
from adreg.train.model.checks import checked_base
from adreg.train.model.load import load_model, parameter_groups
from adreg.train.record.output import write_tokenizer
from tests.builders import build_checkpoint
from tests.train.model.training import configured, logits, plain, rows, saved, trained

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"lora": {"rslora": True, "r": 4}},
    "dora": {"lora": {"dora": True, "targets": ["q_proj"]}},
    "patterns": {"lora": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3.5}, "layers": [1], "r": 4}},
    "saved": {"lora": {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}},
    "gaussian": {"lora": {"init": "gaussian"}},
    "pissa": {"lora": {"init": "pissa", "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 3}, "rslora": True}},
    "olora": {"lora": {"init": "olora"}},
    "orthogonal": {"lora": {"init": "orthogonal"}},
    "eva": {"lora": {"init": "eva", "r": 4}},
    "ia3": {"method": "ia3", "lora": {"targets": "auto"}},
    "ia3-all": {"method": "ia3"},
    "loha": {"method": "loha", "lora": {"r": 4}},
    "lokr": {"method": "lokr", "lora": {"r": 4}},
    "prefix": {"method": "prefix", "prompt": {"tokens": 5}},
    "prefix-mlp": {"method": "prefix", "prompt": {"tokens": 5, "hidden": 16}},
    "p-tuning": {"method": "p-tuning", "prompt": {"tokens": 5, "hidden": 16}},
    "prompt": {"method": "prompt", "prompt": {"tokens": 5}},
    "text": {"method": "prompt", "prompt": {"tokens": 9, "text": "Speak as a lighthouse keeper."}},
}
ON_GPT2 = ("lora", "pissa", "olora", "orthogonal", "eva", "ia3", "prefix", "p-tuning", "prompt")
SMALL = {"vocab_size": 1024}
THIN = {"hidden_size": 16, "intermediate_size": 32}


def settings_of(name: str, kind: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(json.dumps(METHODS[name]))
    if kind == "gpt2":
        known["lora"] = {name: value for name, value in known.get("lora", {}).items() if not name.endswith("_pattern")}
    return known


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> dict[str, Path]:
    """Models whose output head does not outweigh the rest."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        "llama": build_checkpoint(folder / "llama", "llama", tokenizer_folder, **SMALL),
        "untied": build_checkpoint(folder / "untied", "llama", tokenizer_folder, **SMALL, tie_word_embeddings=False),
        "whole": build_checkpoint(folder / "whole", "llama", tokenizer_folder, **THIN),
        "gpt2": build_checkpoint(folder / "gpt2", "gpt2", tokenizer_folder, **SMALL),
    }


def findings(folder: Path, target: str = "peft") -> list[Finding]:
    """What is at least an error."""
    report = judge(Subject(inspect_folder(folder), target=target), Speed.VALUES)
    return [one for one in report.findings if one.severity >= Severity.ERR]


BASES = {"saved": "untied", "text": "whole"}
CASES = [(BASES.get(name, "llama"), name) for name in METHODS] + [("gpt2", name) for name in ON_GPT2]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_learns_and_plain_peft_reads_it(kind: str, name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, config = bases[kind], configured(**settings_of(name, kind))
    checked_base(base, "org/tiny", config)
    model, losses = trained(base, config)
    assert losses[-1] < losses[0] - 0.05, losses
    assert all(one.dtype == torch.float32 for one in model.parameters() if one.requires_grad)
    folder = saved(model, base, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS, "chat_template.jinja"]
    assert str(tmp_path.parent) not in (folder / CONFIG).read_text()
    torch.testing.assert_close(logits(plain(base, folder)), logits(model), rtol=1e-4, atol=2e-4)
    assert findings(folder) == []


@pytest.mark.parametrize("name", ["pissa", "saved", "prefix"])
def test_in_bf16_too_what_is_trained_is_float32_and_what_is_saved_is_the_same(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["untied"]
    config = configured(**settings_of(name, "llama"), train={"precision": "bf16"})
    model, losses = trained(base, config)
    assert losses[-1] < losses[0] - 0.05
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    folder = saved(model, base, tmp_path / "out")
    there, here = logits(plain(base, folder, torch.bfloat16)), logits(model)
    assert float((there - here).std()) < 0.02 * float(here.std())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_beginning_that_takes_from_the_base_leaves_what_the_model_says(kind: str, bases: dict[str, Path]) -> None:
    plainly, taken = (load_model(bases[kind], configured(lora={"init": init, "r": 4})) for init in ("default", "pissa"))
    torch.testing.assert_close(logits(taken), logits(plainly), rtol=1e-4, atol=1e-4)
    with taken.disable_adapter():
        assert float((logits(taken) - logits(plainly)).std()) > 0.01


def test_olora_begins_as_pefts_own_and_pissa_with_the_largest_singular_values(bases: dict[str, Path]) -> None:
    base = AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float32)
    weight = base.model.layers[1].mlp.up_proj.weight.detach().clone()
    own = LoraConfig(r=4, lora_alpha=12, target_modules=["up_proj"], init_lora_weights="olora", task_type="CAUSAL_LM")
    expected = get_peft_model(base, own).state_dict()
    ours = load_model(bases["llama"], configured(lora={"init": "olora", "r": 4, "alpha": 12, "targets": ["up_proj"]}))
    name = "base_model.model.model.layers.1.mlp.up_proj"
    assert_same_product(ours.state_dict(), expected, name)
    pissa = load_model(bases["llama"], configured(lora={"init": "pissa", "r": 4, "alpha": 12, "targets": ["up_proj"]}))
    state = pissa.state_dict()
    product = 3 * state[f"{name}.lora_B.default.weight"] @ state[f"{name}.lora_A.default.weight"]
    best = torch.linalg.svdvals(weight)
    assert float(torch.linalg.matrix_norm(weight - product) ** 2) == pytest.approx(float((best[4:] ** 2).sum()), rel=1e-3)


def assert_same_product(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], name: str) -> None:
    a, b, rest = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight", f"{name}.base_layer.weight"
    scaled = 3 * state[b] @ state[a] + state[rest]
    torch.testing.assert_close(scaled, 3 * expected[b] @ expected[a] + expected[rest], rtol=1e-4, atol=1e-5)
    assert float(state[rest].std()) != float(scaled.std())


def test_eva_begins_with_the_directions_of_what_flows_in(bases: dict[str, Path]) -> None:
    model = load_model(bases["llama"], configured(lora={"init": "eva", "r": 2, "targets": ["q_proj"], "layers": [0]}), rows())
    base = AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float32)
    flowing = []
    base.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, inputs: flowing.append(inputs[0][0].detach()))
    for row in rows():
        base(torch.from_numpy(row.ids).long()[None])
    directions = torch.linalg.svd(torch.cat(flowing), full_matrices=False).Vh[:2]
    a = model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    torch.testing.assert_close((a @ directions.t()).abs(), torch.eye(2), atol=1e-3, rtol=0)


def test_the_same_seed_saves_the_same_bytes_and_another_one_others(bases: dict[str, Path], tmp_path: Path) -> None:
    def saved_bytes(place: str, seed: int) -> tuple[bytes, bytes]:
        config = configured(lora={"init": "pissa", "r": 4}, train={"seed": seed})
        folder = saved(trained(bases["llama"], config)[0], bases["llama"], tmp_path / place)
        return (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()

    first = saved_bytes("first", 1)
    assert first == saved_bytes("again", 1)
    assert first[1] != saved_bytes("other", 2)[1]


def test_lora_plus_gives_b_a_rate_of_its_own(bases: dict[str, Path]) -> None:
    config = configured(lora={"lr_ratio": 16, "targets": ["q_proj"], "modules_to_save": ["lm_head"]}, train={"lr": 1e-4})
    model = load_model(bases["untied"], config)
    slow, fast = parameter_groups(model, config)
    assert (slow["lr"], fast["lr"]) == (1e-4, pytest.approx(16e-4))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(one)].split(".")[-3] for one in fast["params"]] == ["lora_B", "lora_B"]
    assert len(slow["params"]) == 3
    assert [group["lr"] for group in parameter_groups(model, configured(train={"lr": 1e-4}))] == [1e-4]


@pytest.mark.parametrize("kind", ["llama", "untied"])
def test_new_tokens_take_rows_that_the_embedding_has_to_spare(kind: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    base = build_checkpoint(
        tmp_path / "base", "llama", tokenizer_folder, vocab_size=49160, tie_word_embeddings=kind == "llama", **THIN
    )
    config = configured(lora={"new_tokens": ["<keeper>", "<|im_start|>"], "targets": ["q_proj"]})
    known = checked_base(base, "org/tiny", config)
    assert Encoder(known.tokenizer).tokenizer.token_to_id("<keeper>") == 49152
    model, losses = trained(base, config)
    assert losses[-1] < losses[0]
    folder = saved(model, base, tmp_path / "out")
    write_tokenizer(folder, known.tokenizer)
    stored = json.loads((folder / CONFIG).read_text())["trainable_token_indices"]
    assert set(stored) == {"model.embed_tokens"} | ({"lm_head"} if kind == "untied" else set())
    assert all(ids == [1, 49152] for ids in stored.values())
    torch.testing.assert_close(logits(plain(base, folder)), logits(model), rtol=1e-4, atol=2e-4)
    assert AutoTokenizer.from_pretrained(folder)("<keeper>", add_special_tokens=False).input_ids == [49152]
    assert findings(folder) == []
    assert "49160 rows" in str(refusal(base, [f"<{place}>" for place in range(9)]))


def refusal(base: Path, names: list[str]) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        checked_base(base, "org/tiny", configured(lora={"new_tokens": names}))
    return caught.value
