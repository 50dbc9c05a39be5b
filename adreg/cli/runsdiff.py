"""`adreg runs diff`: two runs side by side, what differs and how they ended."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, print_line
from adreg.cli.terminal import coloured_stdout, shortened, table_lines, terminal_width

CELL = 60
One = Annotated[str, typer.Argument(metavar="A", help="A run.")]
Other = Annotated[str, typer.Argument(metavar="B", help="Another.")]


def diff(a: One, b: Other, json: Json = False, quiet: Quiet = False) -> None:
    """Compare two runs: settings, data, base, code, environment; and how they ended, side by side.

    Example: adreg runs diff 6a01 last
    """
    from adreg.registry.rundiff import diff_runs

    found = registry().runs
    one, two = found.get(a), found.get(b)
    sections = diff_runs(one, two)
    if json:
        pairs = {
            name: {key: {"a": pair[0], "b": pair[1]} for key, pair in section.items()} for name, section in sections.items()
        }
        Output(json=True).data({"a": one["id"], "b": two["id"], **pairs})
    elif quiet:
        for name in sections:
            if name != "outcome":
                print_line(name)
    else:
        _print(one["id"][:12], two["id"][:12], sections)


def _print(a: str, b: str, sections: dict[str, dict[str, Any]]) -> None:
    rows, styles = [], []
    for name, section in sections.items():
        for place, (key, pair) in enumerate(section.items()):
            rows.append(["" if place else name, key, *map(_text, pair)])
            styles.append("dim" if pair[0] == pair[1] else "")
    columns = dict(zip(("", "FIELD", f"A {a}", f"B {b}"), zip(*rows, strict=True), strict=True))
    for line in table_lines(columns, (), terminal_width(), coloured_stdout(), styles):
        print_line(line)
    if len(sections) == 1:
        print_line("the runs differ in nothing that is recorded but how they ended")


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        kind, colon, digest = value.partition(":")
        return digest[:12] if colon and kind in ("b3", "sha256") else shortened(value, CELL)
    return shortened(", ".join(map(str, value)) if isinstance(value, list) else str(value), CELL)
