"""Where a version comes from and what became of it, as a graph: base → run → version → artifact, and its parents."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry.records import ArtifactRecord, VersionRecord, short

if TYPE_CHECKING:
    from adreg.registry.registry import Registry

LIMIT = 400


@dataclass(frozen=True)
class Node:
    """A base, run, version or artifact. `id` is unique in its graph, `detail` one line for people, `at` when it came to be."""

    id: str
    kind: str
    label: str
    detail: str = ""
    at: str = ""


@dataclass(frozen=True)
class Edge:
    """`target` was made of `source`; `relation` says how."""

    source: str
    target: str
    relation: str


@dataclass
class Graph:
    """The ancestors and descendants of one version, at most `LIMIT` nodes; `whole` is False where there are more."""

    start: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)
    whole: bool = True

    def roots(self) -> list[Node]:
        """The nodes that nothing here was made from."""
        made = {edge.target for edge in self.edges.values()}
        return [node for node in self.nodes.values() if node.id not in made]

    def made_of(self, node: Node) -> list[Edge]:
        """The edges that leave `node`, to the oldest target first."""
        leaving = [edge for edge in self.edges.values() if edge.source == node.id and edge.target in self.nodes]
        return sorted(leaving, key=lambda edge: self.nodes[edge.target].at)

    def as_json(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [asdict(edge) for edge in self.edges.values()],
            "whole": self.whole,
        }


def lineage_of(registry: Registry, version: VersionRecord) -> Graph:
    """The graph around `version`: its ancestors, its descendants, and the artifacts of all of them."""
    graph = Graph(version.digest)
    waiting, seen = [version], {version.id}
    while waiting:
        if len(graph.nodes) >= LIMIT:
            graph.whole = False
            break
        current = waiting.pop(0)
        _add_version(registry, graph, current)
        for relative in _relatives(registry, graph, current):
            if relative.id not in seen:
                seen.add(relative.id)
                waiting.append(relative)
    return graph


def _relatives(registry: Registry, graph: Graph, version: VersionRecord) -> list[VersionRecord]:
    """Parents, children and those that share an artifact with `version`, whose edges are added on the way."""
    found = []
    for parent in registry.adapters.parents(version):
        known = registry.adapters.by_digest(parent.digest)
        if not known:
            graph.nodes.setdefault(parent.digest, _stranger(parent.digest, parent.reference))
        _link(graph, parent.digest, version.digest, parent.relation)
        found += known
    for child, relation in registry.adapters.children(version):
        _link(graph, version.digest, child.digest, relation)
        found.append(child)
    for artifact in registry.artifacts.of(version):
        graph.nodes.setdefault(_artifact_id(artifact), _artifact_node(artifact))
        for source in artifact.sources:
            others = [] if source["digest"] == version.digest else registry.adapters.by_digest(source["digest"])
            if not others and source["digest"] != version.digest:
                graph.nodes.setdefault(source["digest"], _stranger(source["digest"], source["reference"]))
            _link(graph, source["digest"], _artifact_id(artifact), _weighted(source["weight"]))
            found += others
    return found


def _add_version(registry: Registry, graph: Graph, version: VersionRecord) -> None:
    graph.nodes[version.digest] = _version_node(version)
    origin = version.weights_id
    if origin:
        label = version.base or f"base {short(origin)}"
        graph.nodes.setdefault(origin, Node(origin, "base", label, short(origin)))
    if version.run:
        graph.nodes.setdefault(version.run, _run_node(registry.runs.get(version.run)))
        if origin:
            _link(graph, origin, version.run, "trained on")
        origin = version.run
    if origin:
        _link(graph, origin, version.digest, "made" if version.run else "adapts")


def _link(graph: Graph, source: str, target: str, relation: str) -> None:
    graph.edges.setdefault((source, target), Edge(source, target, relation))


def _version_node(version: VersionRecord) -> Node:
    marks = ["yanked"] if version.yanked is not None else [f":{alias}" for alias in version.aliases]
    return Node(
        version.digest,
        "version",
        version.reference,
        ", ".join([short(version.digest), version.kind, *marks]),
        version.created_at,
    )


def _stranger(digest: str, reference: str) -> Node:
    return Node(digest, "version", reference, f"{short(digest)}, not in this registry")


def _run_node(run: dict[str, Any]) -> Node:
    data = [Path(str(file.get("path"))).name for file in run.get("data") or []]
    score = (run.get("eval") or {}).get("adapter")
    told = [str(run.get("outcome")), *data, *([] if score is None else [f"held-out loss {score:.2f}"])]
    return Node(run["id"], "run", f"run {run['id'][:12]}", ", ".join(told), str(run.get("started")))


def _artifact_id(artifact: ArtifactRecord) -> str:
    return f"{artifact.digest} {artifact.path}"


def _artifact_node(artifact: ArtifactRecord) -> Node:
    proof = artifact.verification
    told = "not verified" if proof is None else "verified" if proof.get("passed") else "verification FAILED"
    return Node(_artifact_id(artifact), artifact.kind, artifact.path, f"{short(artifact.digest)}, {told}", artifact.created_at)


def _weighted(weight: float | None) -> str:
    return "exported" if weight in (None, 1.0) else f"exported at {weight:g}"
