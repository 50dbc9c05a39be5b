import json

import pytest

from tests.cli.conftest import adreg  # noqa: F401 - a fixture
from tests.train.conftest import chat, write_rows


@pytest.fixture
def rows(tmp_path):
    talks = [{**chat(f"What of {number}?", "Aye. " * (number + 1)), "id": number} for number in range(9)]
    return write_rows(tmp_path / "rows.jsonl", [*talks, chat("Q", ""), talks[0]])


def test_the_report_says_what_becomes_of_each_row(adreg, rows, module_base):  # noqa: F811
    told = adreg("data", "check", rows, "--base", module_base, "--samples", "1")
    assert told.code == 0, told.err
    said = {line.split("  ")[1].strip(): line for line in told.out.splitlines() if line.startswith("  ")}
    assert "messages (jsonl)" in said["form"]
    assert "id" in said["ignored"] and "10 of 11 used" in said["rows"] and "1 empty answer" in said["dropped"]
    assert "1, kept" in said["duplicates"]
    assert "<|im_end|> is learned at the end of all 10 complete rows" in said["stop token"]
    assert "█" in told.out and "≤ 64" in told.out
    assert "⟦Aye. <|im_end|>⟧" in told.out and "What of 0?<|im_end|>" in told.out
    assert "⟦What" not in told.out


def test_json_holds_the_report_and_the_samples(adreg, rows, module_base):  # noqa: F811
    told = json.loads(adreg("data", "check", rows, "--base", module_base, "--json", "--samples", "2").out)
    assert (told["used"], told["template"], len(told["samples"])) == (10, "the base's own", 2)
    pieces = told["samples"][0]["text"]
    assert [learned for _, learned in pieces] == [False, True]
    assert pieces[1][0] == "Aye. <|im_end|>"


def test_pairs_show_both_answers_and_settings_come_from_everywhere(adreg, tmp_path, module_base):  # noqa: F811
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer_zh,answer_en\nWhy?,因为。,Because.\n")
    config = tmp_path / "mine.yaml"
    config.write_text("objective: dpo\ndata:\n  map: {chosen: answer_zh}\n")
    told = adreg(
        "data", "check", path, "-b", module_base, "-c", config, "--map", "rejected=answer_en", "--set", "data.template=qa"
    )
    assert told.code == 0, told.err
    assert "chosen ← answer_zh, rejected ← answer_en" in told.out
    assert "Question: Why?\nAnswer:⟦ 因为。<|im_end|>⟧" in told.out
    assert "rejected:" in told.out and "Because.<|im_end|>⟧" in told.out


def test_a_terminal_sees_what_is_learned_in_green(rows, module_base):
    from adreg.cli.datareport import sample_lines

    sample = {"line": 1, "tokens": 9, "learned": 3, "text": [("Q\n", False), ("A\x1b[31m", True)]}
    drawn = list(sample_lines("r.jsonl", sample, colour=True))[-1]
    assert drawn == "\x1b[2mQ\x1b[0m\n\x1b[32mA�[31m\x1b[0m"


def test_a_fault_is_a_sentence_and_a_hint(adreg, tmp_path, module_base):  # noqa: F811
    path = write_rows(tmp_path / "r.jsonl", [{"question": "Q", "answer_zh": "A", "answer_en": "B"}])
    told = adreg("data", "check", path, "--base", module_base)
    assert told.code == 2 and not told.out
    assert told.err == (
        f"Error: {path}:1: columns answer_zh and answer_en could each be the answer\n"
        "Hint: choose with --map answer=answer_zh or --map answer=answer_en\n"
    )
