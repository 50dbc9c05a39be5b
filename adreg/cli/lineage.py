"""`adreg log` and `adreg trace`: what happened, and where something comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, Ref, registry
from adreg.cli.output import Output, print_line
from adreg.cli.terminal import clean, coloured_stdout, styled
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.references import Reference
    from adreg.registry.lineage import Graph, Node

NOT_FOUND = 3
GraphOption = Annotated[bool, typer.Option("--graph", "-g", help="Draw base, run, version, artifacts and parents instead.")]
KIND_STYLES = {"base": "cyan", "run": "dim", "version": "bold"}


def log(ref: Ref, graph: GraphOption = False, json: Json = False, quiet: Quiet = False) -> None:
    """The history of an adapter or of one of its aliases, newest first; or the lineage of a version.

    Example: adreg log lighthouse:prod --graph
    """
    found, out, reference = registry(), Output(json, quiet), parse_reference(ref)
    if graph:
        _graph(out, reference)
        return
    events = found.adapters.log(reference.name, reference.alias)
    if reference.version or reference.digest:
        number = found.adapters.resolve(reference, yanked=True).number
        events = [event for event in events if number in (event.detail.get("version"), event.detail.get("was"))]
    rows = [{"at": event.at, "verb": event.verb, **event.detail} for event in events]
    columns = {
        "AT": lambda row: row["at"],
        "WHO": lambda row: row.get("actor", "-"),
        "WHAT": lambda row: row["verb"],
        "DETAIL": _detail,
    }
    out.table(rows, columns, "at", "no history")


def _detail(row: dict[str, Any]) -> str:
    """What changed, for people: where an alias moved, which version."""
    told = {
        key: value
        for key, value in row.items()
        if key not in ("at", "verb", "actor", "was", "findings") and value not in (None, "")
    }
    if told.get("origin") == "push":
        del told["origin"]
    if row["verb"] == "alias":
        was = "new" if row.get("was") is None else f"from {row['was']}"
        return f"{row['alias']} → {row['version']} ({was}{', forced' if row.get('forced') else ''})"
    digest = told.get("digest")
    if isinstance(digest, str):
        told["digest"] = digest[7:19]
    return " ".join(f"{key}={_plain(value)}" for key, value in told.items())


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _graph(out: Output, reference: Reference) -> None:
    from adreg.registry.lineage import lineage_of

    found = registry()
    graph = lineage_of(found, found.adapters.resolve(reference))
    if out.json:
        out.data(graph.as_json())
    elif out.quiet:
        for node in graph.nodes.values():
            print_line(node.id)
    else:
        for line in _Drawing(graph, Counter(edge.target for edge in graph.edges.values()), set()).lines():
            print_line(line)
        if not graph.whole:
            out.note("the graph is larger than this; --json has no more of it either", "yellow")


@dataclass
class _Drawing:
    """The graph as trees: a node is drawn whole below the last of those it was made of, and only named below the others."""

    graph: Graph
    left: Counter[str]
    drawn: set[str]

    def lines(self) -> Iterator[str]:
        for root in self.graph.roots():
            yield from self.branch(root, "", "", "")
        if self.graph.start not in self.drawn:  # records that name each other as parents have no root
            yield from self.branch(self.graph.nodes[self.graph.start], "", "", "")

    def branch(self, node: Node, front: str, below: str, relation: str) -> Iterator[str]:
        self.left[node.id] -= 1
        whole = node.id not in self.drawn and (self.left[node.id] <= 0 or not front)
        yield f"{front}{_label(node, relation, whole, node.id == self.graph.start)}"
        if not whole:
            return
        self.drawn.add(node.id)
        edges = self.graph.made_of(node)
        for edge in edges:
            fork, rail = ("└── ", "    ") if edge is edges[-1] else ("├── ", "│   ")
            yield from self.branch(self.graph.nodes[edge.target], below + fork, below + rail, edge.relation)


def _label(node: Node, relation: str, whole: bool, start: bool) -> str:
    colour = coloured_stdout()
    arrow = f"{relation} → " if relation in ("merged", "continued") or relation.startswith("exported at") else ""
    kind = "" if node.label.startswith(node.kind) else f"{node.kind} "
    label = styled(clean(node.label), KIND_STYLES.get(node.kind, "green"), colour)
    detail = styled(f"({clean(node.detail) if whole else '…'})", "dim", colour)
    return f"{arrow}{kind}{label}  {detail}{' ◀' if start and whole else ''}"


def trace(
    path: Annotated[Path, typer.Argument(help="A GGUF or safetensors file, an adapter folder, a checkpoint folder.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a file or folder is and where it comes from, and how that is known; exit code 3 when it is unknown.

    Example: adreg trace ./models/unnamed.gguf
    """
    from adreg.cli.progress import progress
    from adreg.registry.evidence import PROVEN
    from adreg.registry.trace import trace as trace_path

    out = Output(json, quiet)
    result = trace_path(registry(), path, progress(out.human))
    if json:
        out.data(result.as_json())
    elif quiet:
        for match in result.matches:
            print_line(match.reference)
    else:
        pairs = [("path", str(result.path)), ("form", result.form)]
        pairs += [(match.kind, f"{match.reference}  {match.digest.partition(':')[2][:12]}  {match.certainty}: {match.evidence}")
                  for match in result.matches]  # fmt: skip
        if not any(match.certainty == PROVEN for match in result.matches):
            pairs += [("inside", f"{key} = {value}") for key, value in result.inside.items()]
        out.fields({}, "path", pairs)
    if not result.matches:
        out.note("nothing in this registry is known to be it", "yellow")
        raise typer.Exit(NOT_FOUND)
