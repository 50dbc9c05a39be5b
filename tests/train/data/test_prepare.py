import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adreg.errors import UsageError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.config import DataSettings, Source
from adreg.train.data.cache import TokenCache, lay
from adreg.train.data.encode import IGNORED
from adreg.train.data.loader import Loader
from adreg.train.data.prepare import prepare
from adreg.train.data.report import histogram
from adreg.train.data.sequences import Rows, split, weighted
from tests.train.conftest import chat, write_rows


@pytest.fixture
def base(module_base):
    return open_checkpoint(module_base)


def settings(*files, **changes):
    return DataSettings(train=list(files), **{"eval": 0, **changes})


def same(one, other):
    return (one.line, one.ids.tolist(), one.labels.tolist()) == (other.line, other.ids.tolist(), other.labels.tolist())


def test_the_report_accounts_for_every_row(tmp_path, base):
    rows = [chat("Q", "A"), chat("Q", "A"), chat("Q", "  "), chat("", "A"), chat("Q", "long " * 300)]
    path = write_rows(tmp_path / "rows.jsonl", [{**row, "id": 1} for row in rows])
    prepared = prepare(base, settings(path, max_tokens=200), 0)
    [report] = prepared.reports
    assert (report.rows, report.used, report.duplicates, report.complete) == (5, 2, 1, 2)
    assert report.dropped == {"empty answer": 1, "empty prompt": 1, "too long": 1}
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.total_tokens == sum(len(example.ids) for example in prepared.train)
    assert report.trained_tokens == 4
    assert report.ignored == ("id",) and report.lengths == ((64, 2),)
    assert prepared.template == "the base's own" and prepared.tokenizer.chat_template == base.tokenizer.chat_template


def test_every_complete_row_learns_its_stop_token_and_nothing_after_it(tmp_path, base):
    rows = [chat(f"Question {number}?", "Yes. " * (number % 7 + 1)) for number in range(50)]
    prepared = prepare(base, settings(write_rows(tmp_path / "r.jsonl", rows)), 0)
    stop = base.tokenizer.definition["added_tokens"][2]["id"]
    assert all(example.labels[-1] == example.ids[-1] == stop for example in prepared.train)
    assert prepared.reports[0].complete == prepared.reports[0].used == 50


def test_the_cache_gives_back_what_was_encoded(tmp_path, base, home):
    path = write_rows(tmp_path / "r.jsonl", [chat(f"Q{number}", "A" * number) for number in range(1, 30)])
    first = prepare(base, settings(path), 0)
    [stored] = (home / "cache" / "tokens").glob("*.tokens")
    moment = stored.stat().st_ino
    again = prepare(base, settings(path), 0)
    assert stored.stat().st_ino == moment
    assert all(map(same, first.train, again.train))
    assert first.reports == again.reports
    assert not again.train[0].ids.flags.owndata


@pytest.mark.parametrize("place", [3, 12, 40, 200, -9, -1])
def test_a_damaged_cache_file_is_made_anew(tmp_path, base, home, place):
    path = write_rows(tmp_path / "r.jsonl", [chat("Q", "A"), chat("R", "B")])
    first = prepare(base, settings(path), 0)
    [stored] = (home / "cache" / "tokens").glob("*.tokens")
    content = bytearray(stored.read_bytes())
    content[place] ^= 0x15
    stored.write_bytes(content if place != -1 else content[:-8])
    assert all(map(same, prepare(base, settings(path), 0).train, first.train))
    assert TokenCache().get(stored.stem, path) is not None


@pytest.mark.parametrize("change", ["data", "tokens", "map", "template", "limit", "system"])
def test_what_decides_the_tokens_decides_the_cache(tmp_path, base, light_base, home, change):
    path = write_rows(tmp_path / "r.jsonl", [{"question": "Q", "answer": "A", "output2": "B"}] * 2)
    prepare(base, settings(path), 0)
    if change == "data":
        path.write_text(path.read_text().replace("Q", "R"))
    if change == "tokens":
        definition = json.loads((light_base / "tokenizer.json").read_text())
        (light_base / "tokenizer.json").write_text(json.dumps({**definition, "normalizer": {"type": "Lowercase"}}))
        base = open_checkpoint(light_base)
    changes: dict[str, dict[str, Any]] = {
        "map": {"map": {"answer": "output2"}}, "template": {"template": "qa"}, "limit": {"max_tokens": 99},
        "system": {"system": "S"},
    }  # fmt: skip
    prepare(base, settings(path, **changes.get(change, {})), 0)
    assert len(list((home / "cache" / "tokens").glob("*.tokens"))) == 2


def test_the_least_used_files_of_a_full_cache_go(tmp_path, base, home, monkeypatch):
    import os

    from adreg.train.data import cache

    tokens = lay(tmp_path, [])
    kept = TokenCache()
    for number in range(4):
        kept.put(str(number), tokens, {})
        os.utime(kept.folder / f"{number}.tokens", (number, number))
    size = (kept.folder / "0.tokens").stat().st_size
    monkeypatch.setattr(cache, "BYTES_KEPT", 3 * size)
    kept.put("4", tokens, {})
    assert sorted(file.stem for file in kept.folder.iterdir()) == ["2", "3", "4"]


def test_pairs_share_their_prompt_and_learn_both_answers(tmp_path, base):
    rows = [{"prompt": f"Q{number}", "chosen": "Yes.", "rejected": "No, no."} for number in range(3)]
    path = write_rows(tmp_path / "r.jsonl", [*rows, {"prompt": "Q", "chosen": "A", "rejected": "A"}])
    prepared = prepare(base, settings(path, eval=0.4), 0, "dpo")
    assert (len(prepared.train), len(prepared.held_out)) == (2, 1)
    pair = prepared.train[0]
    starts = [int(np.argmax(side.labels != IGNORED)) for side in (pair.chosen, pair.rejected)]
    assert starts[0] == starts[1] and (pair.chosen.ids[: starts[0]] == pair.rejected.ids[: starts[0]]).all()
    [report] = prepared.reports
    assert (report.rows, report.used, report.dropped) == (4, 3, {"chosen is rejected": 1})
    assert isinstance(prepared.train, Rows)
    assert prepared.train.lengths.tolist() == [len(one.chosen.ids) + len(one.rejected.ids) for one in prepared.train]


def test_files_are_seen_as_often_as_their_weights_say(tmp_path, base):
    one = write_rows(tmp_path / "one.jsonl", [chat(f"one {number}", "A") for number in range(10)])
    two = write_rows(tmp_path / "two.jsonl", [chat(f"two {number}", "A") for number in range(4)])
    sources = [Source(path=one, weight=0.5), Source(path=two, weight=2.5)]
    prepared = prepare(base, settings(*sources), 7)
    places = [(example.path.name, example.line) for example in prepared.train]
    assert [name for name, _ in places].count("one.jsonl") == 5 == len(set(places[:5]))
    seen = [line for name, line in places if name == "two.jsonl"]
    assert sorted(seen.count(line) for line in range(1, 5)) == [2, 2, 3, 3]
    assert places == [(one.path.name, one.line) for one in prepare(base, settings(*sources), 7).train]
    assert [report.weight for report in prepared.reports] == [0.5, 2.5]


def test_weights_count_only_what_is_not_held_out():
    kept, held = split(10, 0.3, 1)
    seen = weighted(kept, [10], [2.0], 1)
    assert sorted(seen.tolist()) == sorted([*kept.tolist()] * 2)
    assert not set(seen.tolist()) & set(held.tolist())


def test_the_split_is_drawn_by_the_seed_and_loses_nothing():
    kept, held = split(20, 0.1, seed=1)
    assert sorted([*kept, *held]) == list(range(20))
    assert len(held) == 2
    assert held.tolist() == split(20, 0.1, seed=1)[1].tolist() != split(20, 0.1, seed=2)[1].tolist()
    assert [len(part) for part in split(1, 0.5, 0)] == [1, 0]


def test_one_template_for_all_files(tmp_path, light_base):
    (light_base / "chat_template.jinja").unlink()
    bare = open_checkpoint(light_base)
    raw = write_rows(tmp_path / "raw.jsonl", [{"prompt": "2+2", "completion": "=4"}])
    asked = write_rows(tmp_path / "qa.jsonl", [{"question": "Q", "answer": "A"}])
    text = write_rows(tmp_path / "text.jsonl", [{"text": "T"}])
    prepared = prepare(bare, settings(raw, text), 0)
    assert prepared.template == "raw" and "eos_token" in str(prepared.tokenizer.chat_template)
    assert prepare(bare, settings(text), 0).tokenizer.chat_template is None
    with pytest.raises(UsageError, match="different templates, plain and raw") as caught:
        prepare(bare, settings(raw, asked), 0)
    assert "data.template=plain" in caught.value.hint


def test_rows_longer_than_the_base_has_positions_are_too_long(tmp_path, base):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "word " * 300}, {"text": "word"}])
    assert prepare(base, settings(path), 0).reports[0].dropped == {"too long": 1}


def test_standard_input_is_a_file(base, monkeypatch):
    from adreg.train.data import files

    monkeypatch.setattr(files, "_standard_input", lambda: b'{"text": "one"}\n{"text": "two"}\n')
    loaded = Loader(base, settings("-"), "sft").load(Source(path=Path("-")))
    assert (loaded.report.used, loaded.report.kind) == (2, "jsonl")


def test_the_histogram_counts_every_length_once():
    assert histogram(np.array([1, 8, 9, 16, 17, 200])) == ((8, 2), (16, 2), (32, 1), (64, 0), (128, 0), (256, 1))
    assert histogram(np.array([], dtype=np.int64)) == ()
