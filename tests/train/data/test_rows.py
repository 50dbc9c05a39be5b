import json

import pytest

from adreg.errors import DataError, UnsupportedError, UsageError
from adreg.train.config import ColumnMap, DataSettings, Source
from adreg.train.data.rows import read_rows
from tests.train.conftest import chat, write_rows

PLAIN = DataSettings()
TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def file_of(tmp_path, text, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Source(path=path)


def turns_of(tmp_path, row, settings=PLAIN, objective="sft"):
    file = read_rows(Source(path=write_rows(tmp_path / "rows.jsonl", [row])), settings, objective)
    return [[tuple(turn) for turn in one.turns] for one in file.rows]


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
        ({"conversation": TALK, "id": 3}, [("user", "Q"), ("assistant", "A")]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, TALK[1]]}, None),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, [("user", "Add\n1 2"), ("assistant", "3")]),
        ({"instruction": "Add", "input": "", "output": "3", "id": 7}, [("user", "Add"), ("assistant", "3")]),
        (
            {"instruction": "Q", "output": "A", "history": [["q", "a"]], "system": "S"},
            [("system", "S"), ("user", "q"), ("assistant", "a"), ("user", "Q"), ("assistant", "A")],
        ),
        ({"question": "Q", "answer_zh": "A"}, None),
        ({"query": "Q", "response": "A"}, None),
        ({"problem": "Q", "output": "A"}, None),
        ({"prompt": "Q", "completion": "A", "system": "S"}, [("system", "S"), ("user", "Q"), ("assistant", "A")]),
        ({"prompt": TALK[:1], "completion": TALK[1:]}, None),
        ({"text": "T"}, [("text", "T")]),
        ({"instruction": "Q", "output": "A", "text": "all of it, once more"}, None),
    ],
)
def test_each_form_is_told_from_its_columns(tmp_path, row, turns):
    assert turns_of(tmp_path, row) == [turns or [("user", "Q"), ("assistant", "A")]]


@pytest.mark.parametrize(
    ("row", "given"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {}),
        ({"prompt": TALK[:1], "chosen": TALK[1:], "rejected": [{"role": "assistant", "content": "B"}]}, {}),
        ({"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "B"}]}, {}),
        ({"prompt": "Q", "chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "B"}]}, {}),
        (
            {"question": "Q", "answer_zh": "A", "answer_en": "B"},
            {"prompt": "question", "chosen": "answer_zh", "rejected": "answer_en"},
        ),
    ],
)
def test_each_form_of_a_pair_shares_its_prompt(tmp_path, row, given):
    settings = DataSettings(map=ColumnMap(**given)) if given else PLAIN
    path = write_rows(tmp_path / "rows.jsonl", [row])
    chosen, rejected = read_rows(Source(path=path), settings, "dpo").rows
    assert chosen.turns == (("user", "Q"), ("assistant", "A"))
    assert rejected.turns == (("user", "Q"), ("assistant", "B"))
    assert chosen.learn_from == rejected.learn_from == 1


def test_a_common_beginning_of_two_conversations_is_their_prompt(tmp_path):
    start = [*TALK, {"role": "user", "content": "R"}]
    row = {name: [*start, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    chosen, _ = read_rows(Source(path=write_rows(tmp_path / "r.jsonl", [row])), PLAIN, "dpo").rows
    assert (len(chosen.turns), chosen.learn_from) == (4, 3)


def test_two_answers_ask_for_a_map_and_the_map_decides(tmp_path):
    row = {"question": "Q", "answer_zh": "A", "answer_en": "B"}
    with pytest.raises(UsageError, match=r"rows\.jsonl:1: columns answer_zh and answer_en could each be the answer") as caught:
        turns_of(tmp_path, row)
    assert "--map answer=answer_en" in caught.value.hint
    chosen = DataSettings(map=ColumnMap(answer="answer_en"))
    assert turns_of(tmp_path, row, chosen) == [[("user", "Q"), ("assistant", "B")]]


def test_a_files_own_map_goes_over_that_of_all(tmp_path):
    source = Source(path=write_rows(tmp_path / "r.jsonl", [{"q": "Q", "a": "A", "b": "B"}]), map=ColumnMap(answer="b"))
    file = read_rows(source, DataSettings(map=ColumnMap(prompt="q", answer="a")))
    assert file.rows[0].turns == (("user", "Q"), ("assistant", "B"))
    assert file.ignored == ("a",)


def test_a_map_reaches_into_nested_columns_and_advice_names_them(tmp_path):
    row = {"title": "Q", "answers": {"text": ["A", "B"]}}
    settings = DataSettings(map=ColumnMap(answer="answers.text[1]"))
    assert turns_of(tmp_path, row, settings) == [[("user", "Q"), ("assistant", "B")]]
    with pytest.raises(UsageError) as caught:
        turns_of(tmp_path, row)
    assert "--map answer=answers.text[0]" in caught.value.hint


def test_a_system_prompt_goes_before_rows_that_have_none(tmp_path):
    settings = DataSettings(system="Be brief.")
    assert turns_of(tmp_path, chat("Q", "A"), settings)[0][0] == ("system", "Be brief.")
    own = {"messages": [{"role": "system", "content": "S"}, *TALK]}
    assert turns_of(tmp_path, own, settings)[0][0] == ("system", "S")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", '[\n {"question": "Q1", "answer": "A"},\n {"question": "Q2",\n  "answer": "A"}\n]'),
        ("rows.json", '{"about": "x",\n"data": [{"question": "Q1", "answer": "A"},\n{"question": "Q2", "answer": "A"}]}'),
        ("rows.json", '\n{"question": "Q1", "answer": "A"}\n{"question": "Q2", "answer": "A"}\n'),
        ("rows.csv", '\ufeffquestion,answer\r\nQ1,"A"\r\n"Q2",A\r\n'),
        ("rows.csv", "question;answer\nQ1;A\nQ2;A\n"),
        ("rows.tsv", "question\tanswer\nQ1\tA\nQ2\tA"),
    ],
)
def test_every_format_of_a_file_knows_its_lines(tmp_path, name, text):
    rows = read_rows(file_of(tmp_path, text, name), PLAIN).rows
    assert [row.turns[0].content for row in rows] == ["Q1", "Q2"]
    assert [row.line for row in rows] == [2, 3]


def test_a_cell_may_hold_lines_and_the_next_row_still_knows_its_own(tmp_path):
    text = 'question,answer\n"Q\n1","A, and ""B"""\nQ2,A\n'
    rows = read_rows(file_of(tmp_path, text, "r.csv"), PLAIN).rows
    assert [row.line for row in rows] == [2, 4]
    assert [turn.content for turn in rows[0].turns] == ["Q\n1", 'A, and "B"']


def test_plain_lines(tmp_path):
    rows = read_rows(file_of(tmp_path, "\ufeffone\r\n\r\ntwo é\n", "lines.txt"), PLAIN).rows
    assert [(row.line, row.turns[0].content) for row in rows] == [(1, "one"), (3, "two é")]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('[{"text": "T"}]', "json"),
        ('{"text": "T"}\n{"text": "U"}', "jsonl"),
        ("question,answer\nQ,A", "csv"),
        ("question\tanswer\nQ\tA", "tsv"),
        ("Plain words, as they are.\nMore.", "lines"),
    ],
)
def test_the_format_of_standard_input_is_seen_from_what_comes(tmp_path, text, kind):
    from pathlib import Path

    assert read_rows(Source(path=Path("-")), PLAIN, content=text.encode()).kind == kind


def test_parquet_needs_pyarrow_and_says_so(tmp_path):
    from importlib.util import find_spec

    from adreg.errors import MissingExtra

    if find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"question": ["Q"], "answer": ["A"]}), tmp_path / "r.parquet")
        [row] = read_rows(Source(path=tmp_path / "r.parquet"), PLAIN).rows
        assert row.turns == (("user", "Q"), ("assistant", "A"))
    else:
        with pytest.raises(MissingExtra, match="pyarrow"):
            read_rows(file_of(tmp_path, "PAR1", "r.parquet"), PLAIN)


def test_nothing_is_lost_without_being_counted(tmp_path):
    rows = [chat("Q", "A"), chat("Q", "A"), chat("Q", "  "), chat("", "A"), chat("Q\x07", "A"), chat("Q", "\ufffd")]
    rows.append({"messages": [TALK[0], *TALK], "source": "web"})
    file = read_rows(Source(path=write_rows(tmp_path / "r.jsonl", rows)), PLAIN)
    assert (file.read, len(file.rows), file.duplicates) == (7, 5, 1)
    assert file.dropped == {"empty answer": 1, "empty prompt": 1}
    assert file.ignored == ("source",)
    assert file.notes == {
        "with control characters": 1, "with broken characters (U+FFFD)": 1, "with two turns of one speaker in a row": 1,
    }  # fmt: skip


def test_rows_that_do_not_fit_the_objective_are_refused(tmp_path):
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    with pytest.raises(UsageError, match=r"rows\.jsonl:1: its rows are preference pairs") as caught:
        turns_of(tmp_path, pair)
    assert "--set objective=dpo" in caught.value.hint
    assert turns_of(tmp_path, pair, DataSettings(map=ColumnMap(answer="chosen"))) == [[("user", "Q"), ("assistant", "A")]]
    with pytest.raises(UsageError, match="dpo needs pairs"):
        turns_of(tmp_path, chat("Q", "A"), objective="dpo")


def test_an_unknown_suffix_names_the_formats(tmp_path):
    with pytest.raises(UnsupportedError) as caught:
        read_rows(file_of(tmp_path, "x", "rows.xlsx"), PLAIN)
    assert ".csv" in caught.value.instead


def test_a_json_row_may_not_say_two_things(tmp_path):
    with pytest.raises(DataError, match="key 'text' appears twice"):
        read_rows(file_of(tmp_path, json.dumps({"text": "a"})[:-1] + ', "text": "b"}'), PLAIN)
