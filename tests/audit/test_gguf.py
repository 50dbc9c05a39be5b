from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adreg.audit.basecard import BaseCard, make_card
from adreg.audit.catalogue import GGUF_RULES
from adreg.audit.gguf import GgufFacts, GgufSubject, inspect_gguf, judge_gguf
from adreg.cli.audit import audit
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.gguf.tensors import as_gguf
from tests.audit.clean import RECIPES, build_base, build_one, build_tokenizer
from tests.audit.engines import run_llamacpp
from tests.audit.mutations.gguf import MUTATIONS, GgufMutation, rewrite, write_lora
from tests.export.merging import merge

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return build_base(folder / "llama", "llama", build_tokenizer(folder / "tokenizer"))


@pytest.fixture(scope="module")
def card(base) -> BaseCard:
    checkpoint = open_checkpoint(base)
    return make_card("tiny", checkpoint, fingerprint(checkpoint)[0])


@pytest.fixture(scope="module")
def clean(tmp_path_factory, base, card) -> dict[str, Path]:
    """A merged model in two types and a LoRA, as adreg and llama.cpp's converter write them."""
    folder = tmp_path_factory.mktemp("gguf")
    ids = {"adapter.0.digest": DIGEST} | {f"base.{name}": value for name, value in vars(card.ids).items() if value}
    adapter = build_one(folder / "adapter", RECIPES["llama LoRA"], base, base, 1)
    made = {
        name: merge(base, adapter, output=folder / f"{name}.gguf", quant=quant, provenance=ids).path
        for name, quant in (("model", "f16"), ("quantised", "q8_0"))
    }
    return made | {"lora": write_lora(folder / "lora.gguf", made["model"], ids["base.weights_id"])}


def fired(subject: GgufSubject) -> frozenset[str]:
    return frozenset(finding.rule for finding in judge_gguf(subject).findings)


def seen(path: Path, card: BaseCard) -> GgufSubject:
    found = as_gguf(card.name, card.model_type, card.shapes, card.conv1d, card.ids.weights_id)
    return inspect_gguf(path, found, GgufFacts(card, {DIGEST: "one:1"}))


# what llama.cpp's loader refuses; the others it takes, without a word
REFUSED = ("G-HDR-1", "G-ARC-1", "G-LRA-1", "G-LRA-2", "G-LRA-6", "G-LRA-7", "G-LRA-8", "G-LRA-9")
ON_LORA = [mutation for mutation in MUTATIONS if mutation.of == "lora" and mutation.rule != "G-ID-7"]


def test_clean_files_have_no_findings(clean, card):
    for name, path in clean.items():
        assert not fired(seen(path, card)), name


def test_every_rule_has_a_mutation():
    assert {rule.id for rule in GGUF_RULES} == {mutation.rule for mutation in MUTATIONS}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{one.rule} {one.label}" for one in MUTATIONS])
def test_every_mutation_is_found_by_its_rule_and_nothing_else(mutation: GgufMutation, clean, card, tmp_path):
    path = tmp_path / clean[mutation.of].name
    if mutation.break_file is not None:
        path.write_bytes(mutation.break_file(clean[mutation.of].read_bytes()))
    else:
        rewrite(clean[mutation.of], path, mutation.change)
    new = fired(mutation.alter(seen(path, card)))
    assert mutation.rule in new and new - {mutation.rule} <= mutation.consequences


@pytest.mark.parametrize("mutation", ON_LORA, ids=[f"{one.rule} {one.label}" for one in ON_LORA])
def test_llamacpp_refuses_the_loras_that_the_rules_say_it_refuses(mutation: GgufMutation, clean, tmp_path):
    path = tmp_path / "lora.gguf"
    if mutation.break_file is not None:
        path.write_bytes(mutation.break_file(clean["lora"].read_bytes()))
    else:
        rewrite(clean["lora"], path, mutation.change)
    said, found = run_llamacpp(clean["model"], path, ids=[11, 104, 42])
    assert (found is None) is (mutation.rule in REFUSED), said


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(audit)
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_the_command_audits_gguf_files(clean, base, tmp_path, run):
    assert run(clean["model"]).exit_code == 0
    told = json.loads(run(clean["lora"], "--base", base, "--json").stdout)
    assert told["verdict"] == "EXACT" and "G-LRA-7" in told["checked"]
    assert {one["rule"] for one in told["findings"]} == {"G-ID-5"}
    assert json.loads(run(clean["lora"], "--base", clean["model"], "--json").stdout)["verdict"] == "UNKNOWN"
    (tmp_path / "cut.gguf").write_bytes(clean["model"].read_bytes()[:100])
    broken = run(tmp_path / "cut.gguf", "--sarif")
    assert broken.exit_code == 5 and json.loads(broken.stdout)["runs"][0]["results"][0]["ruleId"] == "G-HDR-1"
