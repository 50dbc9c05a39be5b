"""The picture of an adapter's updates: every module in its place, values that a reader can check, nothing from a name runs."""

import re
from xml.etree import ElementTree

import pytest

from adreg.cli.heatmap import LINES, heatmap_lines
from adreg.cli.spectraplot import heatmap, write_plot
from adreg.errors import UsageError
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.adapters.layergrid import grid_of, scale_of
from adreg.formats.adapters.spectra import Spectrum, spectra_of
from adreg.formats.pictures.shapes import Box, Curve, Words
from adreg.formats.pictures.svg import svg

SVG = "{http://www.w3.org/2000/svg}"


def spectrum(module, *values):
    return Spectrum(module, (8, 8), len(values), values)


@pytest.fixture(scope="module")
def spectra(llama_adapter):
    return spectra_of(open_adapter(llama_adapter).modules)


def test_the_grid_holds_every_module_once_in_its_layer_and_kind(spectra):
    grid = grid_of(spectra)
    assert grid.rows == ("0", "1")
    assert grid.columns == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert len(grid.cells) == len(spectra) == 14
    for (row, column), cell in grid.cells.items():
        assert f"layers.{grid.rows[row]}." in cell.strongest.module and cell.strongest.module.endswith(grid.columns[column])


def test_gaps_experts_stacks_and_what_is_outside_have_their_place():
    names = [
        "a.layers.0.mlp.c",
        "a.layers.3.mlp.c",
        "a.layers.3.attn.c",
        "b.blocks.0.mlp.experts.0.up",
        "b.blocks.0.mlp.experts.1.up",
    ]
    grid = grid_of([spectrum(name, 3.0, 4.0) for name in [*names, "lm_head"]])
    assert grid.rows == ("a 0", "a 1", "a 2", "a 3", "b 0", "outside")
    assert grid.columns == ("attn.c", "mlp.c", "up", "lm_head")
    assert {row for row, _ in grid.cells} == {0, 3, 4, 5}
    assert grid.cells[4, 2].norm == pytest.approx(50**0.5)


def test_the_scale_is_linear_from_zero_or_logarithmic_over_decades():
    near, far = scale_of([1.0, 2.0, 4.0]), scale_of([0.0, 1.0, 10.0, 100.0])
    assert [near.share(value) for value in (0.0, 2.0, 4.0)] == [0.0, 0.5, 1.0]
    assert far.logarithmic and far.share(10.0) == pytest.approx(0.5, abs=1e-3) and far.share(0.0) == 0.0


def test_the_svg_says_the_norm_of_every_module(spectra):
    root = ElementTree.fromstring(svg(heatmap("voice:3", spectra)))
    hints = [hint.text or "" for rect in root.iter(f"{SVG}rect") for hint in rect.iter(f"{SVG}title")]
    assert len(hints) == len(spectra)
    told = {hint.partition(":")[0]: float(re.findall(r": ([\d.e+-]+),", hint)[0]) for hint in hints}
    assert told == {one.module: pytest.approx(one.norm, rel=1e-3) for one in spectra}
    lines = [line for line in root.iter(f"{SVG}path") if line.get("class") == "line"]
    assert len(lines) == len(spectra) and all(len(re.findall("L", line.get("d", ""))) == 7 for line in lines)


def test_the_png_shows_what_the_svg_says(tmp_path, spectra):
    from PIL import Image, ImageColor

    picture = heatmap("voice:3", spectra)
    write_plot(tmp_path / "voice.PNG", "voice:3", spectra)
    with Image.open(tmp_path / "voice.PNG") as image:
        assert image.format == "PNG" and image.size == (2 * picture.width, 2 * picture.height)
        pixels = image.convert("RGB")
    boxes = [shape for shape in picture.shapes if isinstance(shape, Box) and shape.hint]
    for box in boxes:
        middle = round(2 * (box.x + box.width / 2)), round(2 * (box.y + box.height / 2))
        assert ImageColor.getrgb(str(box.colour)) == pixels.getpixel(middle)
    assert len(boxes) == len(spectra)
    for shape in picture.shapes:
        if isinstance(shape, Words | Curve):
            x, y = (shape.x, shape.y) if isinstance(shape, Words) else shape.points[0]
            near = pixels.crop((round(2 * x) - 24, round(2 * y) - 24, round(2 * x) + 24, round(2 * y) + 24))
            assert len(set(near.get_flattened_data())) > 1, shape


def test_a_spectrum_of_thousands_of_values_is_drawn_with_as_many_points_as_can_be_seen():
    long = [spectrum("layers.0.q_proj", *(2.0 ** -(place / 400) for place in range(4096)))]
    curves = [shape for shape in heatmap("x", long).shapes if isinstance(shape, Curve) and shape.ink == "line"]
    assert len(curves) == 1 and 100 < len(curves[0].points) < 400


def test_the_strongest_cell_has_the_last_colour_and_a_zero_one_the_first():
    drawn = [spectrum("layers.0.q_proj", 0.0), spectrum("layers.1.q_proj", 2.0)]
    root = ElementTree.fromstring(svg(heatmap("x", drawn)))
    assert [rect.get("fill") for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None] == [
        "#440154",
        "#fde725",
    ]


def test_hostile_names_stay_text():
    evil = '</text><script>alert(1)</script>\x1b[31m"&'
    text = svg(heatmap(evil, [spectrum(f"layers.0.{evil}", 1.0), spectrum(evil, 2.0)]))
    assert not list(ElementTree.fromstring(text).iter(f"{SVG}script")) and "\x1b" not in text
    assert not any("\x1b" in line for line in heatmap_lines([spectrum(evil, 1.0)], colour=False))


@pytest.mark.parametrize("colour", [True, False])
def test_the_terminal_form_fits_its_room(colour):
    many = [spectrum(f"model.layers.{layer}.self_attn.{kind}_proj", 1.0 + layer) for layer in range(126) for kind in "qkvo"]
    lines = heatmap_lines(many, colour, room=20)
    assert len(lines) <= LINES + 5
    picture = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines[:-2]]
    assert all(len(line) <= 20 for line in picture[:-1]) and "2 more kinds do not fit" in picture[-1]


def test_shades_grow_with_the_norm():
    lines = heatmap_lines([spectrum(f"layers.{layer}.q_proj", float(layer)) for layer in range(5)], colour=False)
    assert [line.split()[1][0] for line in lines[1:6]] == ["·", "░", "▒", "▓", "█"]


def test_a_file_is_svg_or_png_by_its_name_or_refused(tmp_path, spectra):
    write_plot(tmp_path / "a.svg", "a", spectra)
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    for name in ("a.pdf", "a"):
        with pytest.raises(UsageError, match="draws SVG and PNG"):
            write_plot(tmp_path / name, "a", spectra)
    with pytest.raises(UsageError, match="no updates of weights"):
        write_plot(tmp_path / "b.png", "a", [])
    crowd = [spectrum(f"model.layers.0.kind{number}", 1.0) for number in range(2500)]
    with pytest.raises(UsageError, match="too many for a PNG"):
        write_plot(tmp_path / "b.png", "a", crowd)
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]
    assert heatmap_lines([], colour=False) == ["no updates of weights to draw"]
