import json

import pytest
from rich.cells import cell_len

from adreg.cli.output import LONG, Output
from adreg.cli.terminal import shortened, table_lines

WIDE = {"NAME": ["voice", "灯台守", "a\nb"], "SIZE": ["1", "22", "灯"], "WHY": ["x" * 50, "", "\x1b[31mred"]}


def test_columns_are_straight_whatever_the_width_of_their_characters():
    lines = list(table_lines(WIDE, ["SIZE"], None, colour=False))
    starts = [cell_len(line.partition(mark)[0]) for line, mark in zip(lines, ("WHY", "xxx"), strict=False)]
    assert starts == [14, 14] and lines[3].endswith("灯  �[31mred") and "\n" not in lines[3]
    assert lines[2] == "灯台守    22"


@pytest.mark.parametrize("room", [18, 30, 200])
def test_a_table_fits_its_room(room):
    lines = list(table_lines(WIDE, ["SIZE"], room, colour=False))
    assert len(lines) == 4 and all(cell_len(line) <= room for line in lines)
    assert ("…" in lines[1]) == (room < 60)


def test_a_shortened_text_keeps_its_beginning():
    assert shortened("voice", 5) == "voice" and shortened("voices", 5) == "voic…" and cell_len(shortened("灯台守", 4)) <= 4


@pytest.mark.parametrize("count", [0, 1, LONG - 1, LONG, LONG + 1, 3 * LONG])
def test_a_list_is_one_json_value_however_long(capsys, count):
    rows = [{"number": number, "text": "灯\n"} for number in range(count)]
    Output(json=True).stream(iter(rows))
    assert json.loads(capsys.readouterr().out) == rows
