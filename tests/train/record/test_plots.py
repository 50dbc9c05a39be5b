"""Loss plots: every step is there, peaks survive thinning, odd records do no harm, one run or several."""

from __future__ import annotations

import math
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from adreg.cli.lossterm import loss_lines
from adreg.cli.sparks import sparkline
from adreg.formats.pictures.png import write_png
from adreg.formats.pictures.shapes import Curve, Dot
from adreg.formats.pictures.svg import svg
from adreg.train.record.curves import curve_of, loss_range, smoothed, thinned, ticks, told
from adreg.train.record.lossplot import loss_picture


def record(steps=60, held=3, **more):
    dice = random.Random(steps)
    losses = [
        [n, 2 + 3 * math.exp(-4 * n / steps) + 0.1 * dice.gauss(0, 1), 1e-3 * (1 - n / steps)] for n in range(1, steps + 1)
    ]
    looks = [[steps * place // held, 2.5, True] for place in range(1, held)]
    return {"losses": losses, "evaluations": looks, "steps": steps, "eval": {"base": 5.0, "adapter": 2.2}, **more}


def test_a_curve_has_every_step_and_the_held_out_losses_in_order():
    curve = curve_of(record(), "a")
    assert [step for step, _ in curve.raw] == list(range(1, 61)) and len(curve.smooth) == len(curve.rates) == 60
    assert curve.held_out == ((0.0, 5.0), (20.0, 2.5), (40.0, 2.5), (60.0, 2.2))
    assert curve_of(record(outcome="stopped early"), "a").held_out[-1] == (40.0, 2.5)


@pytest.mark.parametrize(
    "odd", [{}, {"losses": 3, "eval": []}, {"losses": [["x", 1], [1, None], [2, float("nan"), "y"], 7], "evaluations": ["z"]}]
)
def test_what_is_odd_in_a_record_is_left_out(odd):
    if odd.get("losses") == 3:
        odd = {"losses": [3], "eval": {}}
    curve = curve_of(odd, "odd")
    assert curve.raw == curve.held_out == ()
    picture = loss_picture([curve])
    assert ElementTree.fromstring(svg(picture)) is not None
    assert loss_lines([curve], False, 80)


def test_smoothing_begins_at_the_first_loss_and_follows_a_constant():
    assert smoothed([(1, 4.0)]) == [(1, 4.0)]
    assert [loss for _, loss in smoothed([(n, 2.0) for n in range(500)])] == pytest.approx([2.0] * 500)


def test_thinning_keeps_the_peaks():
    points = [(n, 1.0) for n in range(100_000)]
    points[77_777] = (77_777, 9.0)
    kept = thinned(points, 1000)
    assert (77_777, 9.0) in kept and len(kept) <= 1100 and kept == sorted(kept)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.1, 2.9), (0.0001, 0.0003), (0, 123456), (5, 5)])
def test_ticks_are_round_inside_and_told_apart(low, high):
    values = ticks(low, high, 5)
    assert 1 <= len(values) <= 11 and all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    assert len(set(told(values))) == len(values)


def test_single_steps_do_not_squeeze_the_picture():
    spiky = record(1000)
    spiky["losses"][500][1] = 60.0
    low, high = loss_range([curve_of(spiky, "a")])
    assert high < 10 and low >= 0


def test_the_picture_shows_each_step_and_held_out_dot_and_is_whole_svg(tmp_path):
    curve = curve_of(record(), "run <a> & b")
    picture = loss_picture([curve], "Run <a>")
    faint = next(shape for shape in picture.shapes if isinstance(shape, Curve) and shape.hint == "each step")
    assert len(faint.points) == 60
    assert sum(isinstance(shape, Dot) and "held-out loss" in shape.hint for shape in picture.shapes) == 4
    assert all(0 <= x <= picture.width and 0 <= y <= picture.height for x, y in faint.points)
    ElementTree.fromstring(svg(picture))


def test_several_runs_have_a_colour_and_a_legend_each(tmp_path):
    curves = [curve_of(record(40 + 10 * place), f"run {place}") for place in range(10)]
    picture = loss_picture(curves, "ten runs")
    text = svg(picture)
    assert all(f"run {place}, held-out loss 2.200" in text for place in range(10))
    write_png(picture, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("room", [80, 120, 40])
def test_the_terminal_plot_fits_and_marks_held_out_losses(room):
    lines = loss_lines([curve_of(record(), "a")], False, room)
    assert max(map(len, lines[:-1])) <= room
    assert sum(line.count("●") for line in lines[:-1]) == 4 and "5.000 → 2.200" in lines[-1]
    both = loss_lines([curve_of(record(), "one"), curve_of(record(30), "two")], True, room)
    assert any("A" in line and "one" in line for line in both) and any("B" in line and "two" in line for line in both)


def test_a_sparkline_has_the_asked_width_and_the_extremes():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(range(1000), 20)) == 20 and sparkline([], 5) == "" and sparkline([2.0], 5) == "▅"
    assert sparkline([0.5, 1.0], 2, low=0.0) == "▅█"


def test_a_plot_of_a_long_run_is_small():
    assert len(svg(loss_picture([curve_of(record(50_000), "long")]))) < 150_000


def test_the_demo_record_of_before_is_still_drawn(tmp_path: Path):
    old = {
        "losses": [[1, 4.0, 1e-3, 100.0], [2, 3.0, 1e-3, 100.0]],
        "eval": {"rows": 2, "base": 4.5, "adapter": 3.0},
        "steps": 2,
    }
    assert curve_of(old, "old").held_out == ((0.0, 4.5), (2.0, 3.0))
