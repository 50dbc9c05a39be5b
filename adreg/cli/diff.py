"""`adreg diff`: two versions side by side, only what differs."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, complete_reference, registry
from adreg.cli.output import Output, print_line
from adreg.cli.terminal import coloured_stdout, shortened, styled, table_lines, terminal_width
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.diff import VersionDiff
    from adreg.registry.effects import Effect

TOP, CELL = 8, 60
One = Annotated[str, typer.Argument(metavar="A", help="A version.", autocompletion=complete_reference)]
Other = Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=complete_reference)]


def diff(a: One, b: Other, json: Json = False, quiet: Quiet = False) -> None:
    """Compare two versions: configuration, updates, lineage, training, files.

    Example: adreg diff lighthouse:2 lighthouse:prod
    """
    from adreg.registry.diff import diff_versions

    found = registry()
    one, two = (found.adapters.resolve(parse_reference(ref)) for ref in (a, b))
    result = diff_versions(found, one, two)
    if json:
        Output(json=True).data(result.as_json())
    elif quiet:
        for section in result.changed:
            print_line(section)
    else:
        _print(result)


def _print(result: VersionDiff) -> None:
    rows = [
        (name, _shown(name, key), _text(pair[0], name), _text(pair[1], name))
        for name, section in result.changed.items()
        for key, pair in section.items()
    ]
    if not rows and not result.moved:
        print_line(f"{result.a} and {result.b} do not differ")
        return
    firsts = [name if index == 0 or rows[index - 1][0] != name else "" for index, (name, *_) in enumerate(rows)]
    cells = [[first, *row[1:]] for first, row in zip(firsts, rows, strict=True)]
    if cells:
        _lines(["", "FIELD", f"A {result.a}", f"B {result.b}"], cells, ())
    if result.moved:
        print_line("")
        _lines(["MODULE", "NORM A", "NORM B", "COSINE", "CHANGE"], [_cells(each) for each in result.moved[:TOP]], RIGHT)
        print_line(styled(_summary(result), "dim", coloured_stdout()))


RIGHT = ("NORM A", "NORM B", "COSINE", "CHANGE")


def _lines(headings: list[str], cells: list[list[str]], right: tuple[str, ...]) -> None:
    columns = dict(zip(headings, zip(*cells, strict=True), strict=True))
    for line in table_lines(columns, right, terminal_width(), coloured_stdout()):
        print_line(line)


def _cells(effect: Effect) -> list[str]:
    figures = (effect.norm_a, effect.norm_b, effect.cosine)
    share = (
        "-" if effect.distance is None else f"{effect.distance:.0%}" if effect.distance >= 0.01 else f"{effect.distance:.1e}"
    )
    return [effect.module, *("-" if figure is None else f"{figure:.3f}" for figure in figures), share]


def _summary(result: VersionDiff) -> str:
    told = [f"{len(result.moved)} of {len(result.effects)} modules differ"]
    told += [f"{len(result.only_a)} only in {result.a}"] if result.only_a else []
    told += [f"{len(result.only_b)} only in {result.b}"] if result.only_b else []
    return ", ".join(told) + "; norms are of scaling·B·A, the change is a share of the larger one"


def _shown(section: str, key: str) -> str:
    return key[:12] if section == "data" else key


def _text(value: Any, section: str) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, str) and (section == "files" or value.startswith("b3:")):
        return value.partition(":")[2][:12]
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, CELL)
