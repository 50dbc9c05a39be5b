"""A recipe is one line: what a person types, in a folder with a base and the tutorial's file."""

import json
import shlex
import sys

import pytest

from adreg.cli.app import main
from adreg.cli.common import registry
from tests.train.recipes.standin import build_base, write_data

LINE = "train --recipe qwen-emoji --base ./Qwen2.5-0.5B-Instruct --data 2_dpo_ruozhiba.jsonl --push emoji:dev"
AFTER = "train --recipe qwen-emoji-dpo --data 2_dpo_ruozhiba.jsonl --parent emoji:dev --push preferred"
TINY = "--set expected_trainable=null --set eval.max_new_tokens=4 --set train.precision=fp32"


@pytest.fixture
def adreg(home, tmp_path, small_tokenizer, capsys, monkeypatch):
    build_base("qwen-emoji", tmp_path, small_tokenizer)
    write_data("qwen-emoji", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(line):
        monkeypatch.setattr(sys, "argv", ["adreg", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    return run


def test_one_line_trains_and_pushes_and_a_base_of_another_shape_is_refused_before_it(adreg, tmp_path):
    code, told = adreg(LINE)
    assert code == 2 and "the recipe trains 1,081,344 parameters and this base would train" in told.err
    assert not (tmp_path / "emoji").exists() and not registry().adapters.names()
    code, told = adreg(f"{LINE} {TINY} --max-steps 2")
    assert code == 0, told.err
    assert registry().adapters.names() == ["emoji"] and "emoji:1" in told.err
    told_runs = [(run["recipe"], run["outcome"]) for run in registry().runs.all()]
    assert sorted(told_runs) == [("qwen-emoji", "failed"), ("qwen-emoji", "finished")]
    code, told = adreg(f"{AFTER} {TINY} --max-steps 1")
    assert code == 0, told.err
    assert registry().runs.all()[0]["parent"]["reference"] == "emoji:1"


def test_preferences_are_planned_from_two_steps_of_their_own(adreg):
    line = LINE.replace("qwen-emoji", "qwen-emoji-dpo")
    code, told = adreg(f"{line} {TINY} --set train.batch=1 --dry-run --json")
    assert code == 0, told.err
    plan = json.loads(told.out)
    assert plan["rows"] == 3 and plan["probe"]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_a_recipe_without_its_base_says_how_to_add_it(adreg):
    code, told = adreg("train --recipe gpt2-qa --data 2_dpo_ruozhiba.jsonl")
    assert code != 0 and "openai-community/gpt2 is not here" in told.err and "--base" in told.err
