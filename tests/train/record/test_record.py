"""The record of a run at its beginning, as it is published, taken up again, and compared; and the advice before a run."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from adreg.registry.push import RUN_FIELDS
from adreg.train.advice import advice
from adreg.train.config import check_config, recorded_config
from adreg.train.data.report import DataReport
from adreg.train.record.compare import compare
from adreg.train.record.environment import machine, memory, versions
from adreg.train.record.folder import model_card, record_text
from adreg.train.record.opening import opening_record, published
from adreg.train.record.record import HeldOut, Sample, StepLoss, config_id, record_of

DIGEST = "sha256:" + "ab" * 32
BASE = {"name": "org/tiny", "weights_id": "b3:00"}


def report(**changes):
    numbers = {"rows": 100, "used": 100, "duplicates": 0, "trained_tokens": 10, "total_tokens": 20, "longest": 9, **changes}
    return DataReport(path="/home/me/rows.jsonl", sha256="0" * 64, form="text", **{"dropped": {}, **numbers})


def begun(**changes):
    config = check_config({"data": {"train": ["/home/me/rows.jsonl"], "eval": [{"path": "/home/me/held.jsonl"}]}, **changes})
    return opening_record(BASE, config, "demo", {"reference": "/home/me/voice", "digest": DIGEST})


def test_a_run_begins_with_all_that_decides_it():
    record = begun(train={"seed": 7})
    assert record.outcome == "running" and record.seed == 7 and record.recipe == "demo" and record.base == BASE
    assert record.process["pid"] and record.versions["torch"] and record.code["adreg"] and record.platform["cpus"]
    assert record.config_id == config_id(record.config) != begun(train={"seed": 8}).config_id
    assert config_id({"a": 1, "b": 2}) == config_id({"b": 2, "a": 1})


def test_what_is_published_names_no_path_process_or_host_and_is_a_record_to_the_registry():
    record = begun(parent="/home/me/voice")
    told = published(json.loads(json.dumps(asdict(record) | {"data": [asdict(report())]})))
    text = record_text(told)
    assert "/home/me" not in text and record.process["host"] not in json.dumps([told["platform"], told["code"], told["config"]])
    assert "process" not in told and told["config"]["data"]["train"][0]["path"] == "rows.jsonl"
    assert told["parents"] == [{"digest": DIGEST, "reference": "voice", "relation": "continued"}]
    assert json.loads(text) == told
    assert all(isinstance(told[name], kind) for name, kind in RUN_FIELDS.items())


def test_steps_take_a_line_each_so_that_a_person_can_read_them():
    losses = [StepLoss(n, 1.0, 1e-3, 10.0) for n in (1, 2, 3)]
    lines = record_text({"id": "x", "losses": [list(step) for step in losses], "samples": []}).splitlines()
    assert lines[2:6] == [' "losses": [', *(f"  [{n}, 1.0, 0.001, 10.0, null, null, null]{',' * (n < 3)}" for n in (1, 2, 3))]


def test_a_stored_record_is_taken_up_again_with_open_end():
    stored = json.loads(json.dumps(asdict(begun()) | {"outcome": "interrupted", "seconds": 5.0, "unknown": 1}))
    stored["samples"], stored["eval"] = [["q", "a", None, True, None]], {"rows": 2, "base": 1.0, "adapter": None}
    again = record_of(stored, seed=9)
    assert (again.id, again.outcome, again.seconds, again.seed) == (stored["id"], "running", 5.0, 9)
    assert again.samples == [Sample("q", "a", None, True, None)] and again.eval == HeldOut(2, 1.0, None)


def test_a_recorded_configuration_asks_for_no_more_than_was_asked_then():
    config = check_config({"train": {"lr": 0.001}})
    again = recorded_config(json.loads(config.model_dump_json()))
    assert again == config and again.data.model_fields_set == set() and again.train.model_fields_set == {"lr"}


def test_the_card_tells_figures_and_answers_that_are_no_markup():
    record = record_of(
        {
            **asdict(begun()),
            "trainable": 5,
            "steps": 3,
            "rows": 9,
            "trained_tokens": 1234,
            "eval": {"rows": 2, "base": 3.0, "adapter": 2.0},
            "samples": [["What?\n# <script>", "old", "new\n[a](b)", False, True]],
        }
    )
    card = model_card(record, "org/tiny")
    assert card.startswith("---\nlibrary_name: peft\nbase_model: org/tiny\n") and "1,234 learned tokens" in card
    assert "3.000 on the base, 2.000 with the adapter (perplexity 20.09 and 7.389)" in card
    assert "\n    # <script>\n" in card and "    → new\n    [a](b)\n" in card


def test_two_runs_are_the_same_only_to_the_last_bit():
    one = {"losses": [[1, 2.0], [2, 1.0]], "weights": DIGEST}
    assert compare(one, one).same and compare(one, one).agree_to(0)
    near = compare(one, {**one, "losses": [[1, 2.0], [2, 1.001]]})
    assert near.first == (2, 1.0, 1.001) and near.largest == pytest.approx(0.000999, rel=1e-3) and not near.same
    assert near.agree_to(1e-2) and not near.agree_to(1e-4)
    assert not compare(one, {**one, "weights": "sha256:" + "00" * 32}).same
    assert not compare(one, {**one, "losses": [[1, 2.0]]}).agree_to(1.0)
    assert compare(one, {"losses": one["losses"]}).same_weights is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train": {"lr": 0.1}}, "train.lr 0.1 is high for lora"),
        ({"method": "prompt", "train": {"lr": 1e-6}}, "train.lr 1e-06 is low for prompt"),
        ({"objective": "dpo", "train": {"lr": 2e-3}}, "high for dpo"),
        ({"lora": {"dropout": 0.5}}, "lora.dropout 0.5"),
        ({"lora": {"r": 4, "alpha": 400}}, "alpha/r is 100"),
        ({"train": {"epochs": 100}}, "100 epochs are many"),
        ({"train": {"batch": 4096}}, "train.batch 4096 is more than there are rows"),
    ],
)
def test_what_is_rarely_meant_is_told(settings, told):
    assert [line for line in advice(check_config(settings), 500, 20, 90, [report()], None) if told in line]


def test_usual_settings_and_sound_data_get_no_advice():
    assert list(advice(check_config({}), 500, 20, 90, [report()], 5)) == []
    assert len(list(advice(check_config({}), 500, 20, 90, [report(dropped={"too long": 30}, duplicates=50)], 5))) == 2
    (few,) = advice(check_config({}), 20, 2, 90, [report()], 5)
    assert few.startswith("20 rows are few")


def test_the_machine_is_told():
    assert (memory() or 0) > 10**6
    assert machine(device="cpu")["device"] == "cpu" and versions()["python"]
