"""What users get wrong, planted: each is named with its place and what would mend it, in a moment, before any model loads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from adreg.errors import AdregError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.config import load_config, map_sets

GOOD = {"question": "Q?", "answer": "A."}
TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SECONDS = 1.0
LONG = "long " * 99
BROKEN = '{"question": "Q", answer: "A"}'
BACKWARDS = [{"role": "user", "content": "R"}, TALK[1]]
HISTORY = {"instruction": "Q", "output": "A", "history": ["q"]}
CALL = {"role": "assistant", "content": "", "tool_calls": [{}]}
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}
BOTH = {"messages": TALK, "conversations": TALK}
TWO_ANSWERS = {"question": "Q", "answer_zh": "A", "answer_en": "B"}


def lines(*rows, before=0):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [GOOD] * before + list(rows))


def second(**changes):
    """A good row, and one with `changes`."""
    return lines(GOOD, {**GOOD, **changes})


def talk(*turns):
    return lines({"messages": TALK}, {"messages": list(turns)})


DATA: dict[str, Any] = {
    "bad JSON": ("r.jsonl", lines(GOOD) + BROKEN, 2, "not strict JSON.*at character 19", "mend the line"),
    "a truncated last line": ("r.jsonl", lines(GOOD) + '{"question": "Q", "ans', 2, "not strict JSON", "cut off here"),
    "a truncated array": ("r.json", '[\n{"question": "Q", "answer": "A"},\n{"question": "Q", "an', 3, "not strict", "cut off"),
    "Latin-1": ("r.jsonl", lines(GOOD).encode() + '{"question": "né"}'.encode("latin-1"), 2, "not UTF-8", "iconv"),
    "UTF-16": ("r.csv", "question,answer\nQ,A\n".encode("utf-16"), 1, "UTF-16", "iconv -f UTF-16"),
    "an empty file": ("r.jsonl", "\n\n", 1, "holds no rows", "right file"),
    "wrong column names": ("r.jsonl", lines({"colour": "red", "size": "4"}), 1, "columns are colour, size", "--map prompt="),
    "ambiguous columns": ("r.jsonl", lines(TWO_ANSWERS), 1, "answer_zh and answer_en",
                          "--map answer=answer_zh or --map answer=answer_en"),
    "two conversations": ("r.jsonl", lines(BOTH), 1, "could each be the messages", "--map messages="),
    "a missing field in row 7": ("r.jsonl", lines({"question": "Q", "anwser": "A"}, before=6), 7, "no answer", "anwser meant"),
    "a null answer": ("r.jsonl", second(answer=None), 2, "answer is null, not text", "remove the row"),
    "a number for text": ("r.jsonl", second(answer=42), 2, "answer is a number", "as text"),
    "an unknown role": ("r.jsonl", talk({"role": "assistent", "content": "A"}), 2, "the role 'assistent'", "mean assistant"),
    "system not first": ("r.jsonl", talk(*TALK, {"role": "system", "content": "S"}), 2, "system turn is not", "front"),
    "no assistant turn": ("r.jsonl", talk(TALK[0]), 2, "no assistant turn", "add the answer"),
    "a turn that is a text": ("r.jsonl", talk("Q", "A"), 2, "turn 1 is text, not an object", "role"),
    "a control token": ("r.jsonl", second(answer="A<|im_end|>"), 2, "token <.im_end.>", "take it out"),
    "a tool call": ("r.jsonl", talk(TALK[0], CALL), 2, "calls a tool", "remove"),
    "a turn not to learn": ("r.jsonl", talk(TALK[0], {**TALK[1], "weight": 0}), 2, "asks not to be learned", "split"),
    "a tool's turn": ("r.jsonl", talk(TALK[0], {"role": "tool", "content": "4"}), 2, "is a tool's", "remove"),
    "an image": ("r.jsonl", talk({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, TALK[1]), 2,
                 "part of type 'image_url'", "remove"),
    "a column of images": ("r.jsonl", second(images=["cat.png"]), 2, r"has images \(images\)", "remove"),
    "a broken history": ("r.jsonl", lines(HISTORY), 1, "its history", "question, answer"),
    "a ragged table": ("r.csv", "question,answer\nQ,A\nWhy, oh why?,A\n", 3, "3 cells where the header has 2", "quote"),
    "an open quote": ("r.csv", 'question,answer\nQ,A\n"Q,A\n', 3, "no table row", "close the quote"),
    "one header twice": ("r.tsv", "question\tquestion\nQ\tA\n", 1, "'question' twice", "a name of its own"),
    "a missing comma": ("r.json", '[{"question": "Q", "answer": "A"}\n {"question": "Q"}]', 2, "comma", "began"),
    "an array called .jsonl": ("r.jsonl", json.dumps([GOOD]), 1, "begins a JSON array", "call it .json"),
    "one object": ("r.json", '{"question": "Q", "answer": "A"}', 1, "without a list of rows", "array"),
    "no prompt in common": ("r.jsonl", lines({"chosen": TALK, "rejected": BACKWARDS}), 1,
                            "share no prompt", "column prompt", "objective=dpo"),
    "pairs without dpo": ("r.jsonl", lines(PAIR), 1, "preference pairs", "objective=dpo"),
    "dpo without pairs": ("r.jsonl", lines(GOOD), 1, "dpo needs pairs", "--map chosen=", "objective=dpo"),
    "a row too long": ("r.jsonl", second(answer=LONG), 2, "has 1.. tokens; the limit is 64",
                       "data.max_tokens=1..", "data.max_tokens=64", "data.too_long=error"),
    "a chat to split": ("r.jsonl", second(answer=LONG), 2, "only texts can be split", "trim_prompt",
                        "data.max_tokens=64", "data.too_long=split"),
}  # fmt: skip


@pytest.mark.parametrize("fault", DATA, ids=lambda name: name.replace(" ", "-"))
def test_a_fault_in_the_data_is_named_with_its_line_and_a_fix(tmp_path, module_base, fault):
    name, text, line, why, fix, *sets = DATA[fault]
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = caught(lambda: loaded(module_base, [f"data.train={path}", *sets]))
    assert str(found).startswith(f"{path}:{line}: ")
    assert_says(found, why, fix)


CONFIG = {
    "a near miss": ("lora:\n  rank: 8\n", 2, "no setting 'lora.rank'", "mean lora.r"),
    "a misspelt section": ("lora: {r: 8}\ntrian: {lr: 1}\n", 2, "no setting 'trian'", "mean train|settings are"),
    "a misspelt map": ("data:\n  map:\n    anwser: a\n", 3, "no setting 'data.map.anwser'", "mean data.map.answer"),
    "a wrong type": ("train:\n  epochs: three\n", 2, "train.epochs is 'three'", "default is 3"),
    "an empty value": ("train:\n  lr:\n", 2, "train.lr is None", "default is 0.0002"),
    "alpha 0": ("# mine\nlora:\n  r: 4\n  alpha: 0\n", 4, "lora.alpha is 0: .*greater than 0", "without lora.alpha"),
    "an unknown choice": ("data:\n  too_long: truncate\n", 2, "'drop', 'trim_prompt'", 'default is "drop"'),
    "one key twice": ("lora: {r: 8}\ntrain: {lr: 1.0e-4}\nlora: {alpha: 16}\n", 3, "lora is set twice, first on line 1", ""),
    "no YAML": ("lora:\n\tr: 8\n", 2, "is not YAML", "indent with spaces"),
    "a bare word": ("train:\n  lr: 1e-4x\n", 2, "train.lr is '1e-4x'", "default"),
}


@pytest.mark.parametrize("fault", CONFIG, ids=lambda name: name.replace(" ", "-"))
def test_a_fault_in_the_settings_is_named_with_its_line_and_a_fix(tmp_path, fault):
    text, line, why, fix = CONFIG[fault]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    found = caught(lambda: load_config(None, path))
    assert str(found).startswith(f"{path}:{line}: ")
    assert_says(found, why, fix)


ASKED = {
    "no such file": (["data.train=nowhere.jsonl"], "no training file 'nowhere.jsonl'", "where adreg was started"),
    "no such template": (["data.template=chatlm"], "no template 'chatlm'", "mean chatml"),
    "a template that is no file": (["data.template=mine.jinja"], "no file mine.jinja", "auto, alpaca"),
    "targets that the base lacks": (["lora.targets=[c_attn]"], "this base has no 'c_attn'", "k_proj"),
    "a layer that the base lacks": (["lora.layers=[7]"], "no layer 7", "layers are 0 to 0"),
    "more tokens than positions": (["data.max_tokens=512"], "the base knows 256 positions", "data.max_tokens=256"),
    "held out and trained on": (["data.eval={file}"], "is held out and trained on", "data.eval=0.05"),
    "dpo on whole rows": (["objective=dpo", "data.train_on=all"], "learns from answers only", "train_on=completion"),
    "a map to a column that is not there": (["data.map.answer=anwser"], "no column 'anwser'", "--map answer=answer"),
}


@pytest.mark.parametrize("fault", ASKED, ids=lambda name: name.replace(" ", "-"))
def test_settings_that_do_not_fit_base_or_data_are_named_with_a_fix(tmp_path, module_base, fault):
    sets, why, fix = ASKED[fault]
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD, before=3))
    found = caught(lambda: loaded(module_base, [f"data.train={path}", *(text.format(file=path) for text in sets)]))
    assert_says(found, why, fix)


def test_a_stop_token_that_the_tokenizer_lacks_is_named(tmp_path, light_base):
    config = json.loads((light_base / "tokenizer_config.json").read_text())
    (light_base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|end|>"}))
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD))
    found = caught(lambda: loaded(light_base, [f"data.train={path}"]))
    assert_says(found, "tokenizer_config.json.*no token '<.end.>'", "eos_token")
    (light_base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "!"}))
    (light_base / "chat_template.jinja").unlink()
    definition = json.loads((light_base / "tokenizer.json").read_text())
    definition["added_tokens"] = [one for one in definition["added_tokens"] if "im_" not in one["content"]]
    vocab = definition["model"]["vocab"]
    definition["model"]["vocab"] = {name: id_ for name, id_ in vocab.items() if "im_" not in name}
    (light_base / "tokenizer.json").write_text(json.dumps(definition))
    sets = [f"data.train={path}", "data.template=chatml"]
    assert_says(caught(lambda: loaded(light_base, sets)), "no token '<.im_", "data.template=qa")


def test_a_map_for_something_else_is_refused():
    assert map_sets(["answer=a b"]) == ['data.map.answer="a b"']
    assert_says(caught(lambda: map_sets(["anwser=x"])), "there is no 'anwser'", "--map answer=x")
    assert_says(caught(lambda: map_sets(["answer"])), "maps nothing", "--map answer=answer_zh")


def loaded(base: Path, sets: list[str]) -> None:
    """All that happens before a model is loaded."""
    from adreg.train.data.prepare import prepare
    from adreg.train.model.targets import check_targets

    config = load_config(sets=sets)
    checkpoint = open_checkpoint(base)
    check_targets(checkpoint, config)
    prepare(checkpoint, config.data, config.train.seed, config.objective)


def caught(work) -> AdregError:
    began = time.process_time()
    with pytest.raises(AdregError) as found:
        work()
    assert time.process_time() - began < SECONDS
    return found.value


def assert_says(error: AdregError, why: str, fix: str) -> None:
    import re

    from adreg.cli.errors import hint

    assert re.search(why, str(error)), str(error)
    assert re.search(fix, hint(error)), hint(error)


@pytest.mark.parametrize("setting", ["data.system=Be kind.", "data.template=qa"])
def test_settings_of_conversations_are_not_ignored_on_plain_texts(tmp_path, module_base, setting):
    (tmp_path / "r.txt").write_text("one\ntwo\n")
    found = caught(lambda: loaded(module_base, [f"data.train={tmp_path / 'r.txt'}", setting]))
    assert_says(found, "plain texts", "leave it out")


def test_data_is_read_and_checked_without_torch():
    import subprocess
    import sys

    code = "import sys, adreg.train.data.prepare, adreg.train.config, adreg.train.model.targets; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
