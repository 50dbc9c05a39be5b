import hashlib
import json

import pytest

from adreg.errors import DataError, UnsupportedError, UsageError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.config import ColumnMap, DataSettings
from adreg.train.data import check_file, split
from adreg.train.rows import read_rows
from tests.train.conftest import chat, write_rows

PLAIN = DataSettings()


def turns_of(tmp_path, row, settings=PLAIN):
    [only] = read_rows(write_rows(tmp_path / "rows.jsonl", [row]), settings).rows
    return [(turn.role, turn.content) for turn in only.turns]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (chat("Hi?", "Ho."), [("user", "Hi?"), ("assistant", "Ho.")]),
        (
            {
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            [("system", "S"), ("user", "Q"), ("assistant", "A")],
        ),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, [("user", "Add\n1 2"), ("assistant", "3")]),
        ({"instruction": "Add", "input": "", "output": "3", "id": 7}, [("user", "Add"), ("assistant", "3")]),
        ({"question": "Q", "answer_zh": "A"}, [("user", "Q"), ("assistant", "A")]),
        ({"prompt": "Q", "completion": "A", "system": "S"}, [("system", "S"), ("user", "Q"), ("assistant", "A")]),
        ({"text": "T"}, [("text", "T")]),
    ],
)
def test_each_form_is_told_from_its_columns(tmp_path, row, turns):
    assert turns_of(tmp_path, row) == turns


def test_two_answers_ask_for_a_map_and_the_map_decides(tmp_path):
    row = {"question": "Q", "answer_zh": "A", "answer_en": "B"}
    with pytest.raises(UsageError, match="answer_zh and answer_en could each be the answer") as caught:
        turns_of(tmp_path, row)
    assert "--set data.map.answer=answer_en" in caught.value.hint
    chosen = DataSettings(map=ColumnMap(answer="answer_en"))
    assert turns_of(tmp_path, row, chosen) == [("user", "Q"), ("assistant", "B")]


def test_a_map_reaches_into_nested_columns(tmp_path):
    row = {"title": "Q", "answers": {"text": ["A", "B"]}}
    settings = DataSettings(map=ColumnMap(answer="answers.text[1]"))
    assert turns_of(tmp_path, row, settings) == [("user", "Q"), ("assistant", "B")]


def test_a_system_prompt_goes_before_rows_that_have_none(tmp_path):
    settings = DataSettings(system="Be brief.")
    assert turns_of(tmp_path, chat("Q", "A"), settings)[0] == ("system", "Be brief.")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"messages": [}', "not strict JSON"),
        ('{"messages": 3}', "not a list of turns"),
        ('{"messages": [{"role": "user", "content": "Q"}]}', "no assistant turn"),
        ('{"messages": [{"role": "bot", "content": "Q"}]}', "turn 1 has the role 'bot'"),
        ('{"messages": [{"role": "assistant", "content": null}]}', "turn 1 has nothing where its text belongs"),
        ('{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}', "calls a tool"),
        ('{"text": "another form"}', "has no messages"),
        ('["Q", "A"]', "no JSON object"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, line, why):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(chat("Q", "A")) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=why) as caught:
        read_rows(path, PLAIN)
    assert caught.value.line == 3
    assert str(caught.value).startswith(f"{path}:3: ")


def test_rows_of_a_json_array_know_their_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=1))
    assert [row.line for row in read_rows(path, PLAIN).rows] == [2, 5]
    path.write_text('[\n{"text": "one"},\n{"text": 2}]')
    with pytest.raises(DataError, match=r"rows\.json:3: text is a number"):
        read_rows(path, PLAIN)


def test_plain_lines_and_broken_encodings(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo é\n".encode())
    assert [(row.line, row.turns[0].content) for row in read_rows(path, PLAIN).rows] == [(1, "one"), (3, "two é")]
    path.write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(DataError, match=r"lines\.txt:2: is not UTF-8"):
        read_rows(path, PLAIN)


def test_what_adreg_does_not_train_on_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedError, match="preference pairs"):
        turns_of(tmp_path, {"prompt": "Q", "chosen": "A", "rejected": "B"})
    with pytest.raises(UsageError, match="columns are colour, size"):
        turns_of(tmp_path, {"colour": "Q", "size": "A"})


def test_the_report_accounts_for_every_row(tmp_path, tiny_llama):
    rows = [chat("Q", "A"), chat("Q", "A"), chat("Q", "  "), chat("", "A"), chat("Q", "long " * 300)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    report, examples = check_file(path, open_checkpoint(tiny_llama), DataSettings(max_tokens=200))
    assert (report.rows, report.used, report.duplicates) == (5, 2, 1)
    assert report.dropped == {"empty answer": 1, "empty prompt": 1, "too long": 1}
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.total_tokens == sum(len(example.ids) for example in examples)
    assert report.trained_tokens == 4
    with pytest.raises(DataError, match=r"rows\.jsonl:5: has \d+ tokens; the limit is 200"):
        check_file(path, open_checkpoint(tiny_llama), DataSettings(max_tokens=200, too_long="error"))


def test_rows_longer_than_the_base_has_positions_are_too_long(tmp_path, tiny_gpt2):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "word " * 300}])
    report, _ = check_file(path, open_checkpoint(tiny_gpt2), DataSettings(max_tokens=1000))
    assert report.dropped == {"too long": 1}


def test_the_split_is_drawn_by_the_seed_and_loses_nothing(tmp_path, tiny_llama):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {number}"} for number in range(20)])
    _, examples = check_file(path, open_checkpoint(tiny_llama), PLAIN)
    kept, held = split(examples, 0.1, seed=1)
    assert sorted(example.line for example in kept + held) == list(range(1, 21))
    assert len(held) == 2
    assert [example.line for example in held] == [example.line for example in split(examples, 0.1, seed=1)[1]]
    assert [example.line for example in held] != [example.line for example in split(examples, 0.1, seed=2)[1]]
