import json

import pytest

from adreg.registry.artifacts import Derived
from adreg.registry.lineage import lineage_of
from adreg.registry.push import plan_push
from tests.registry.small import IDS, RUN, recorded, small_adapter


def push(registry, folder, name):
    return registry.adapters.push(plan_push(folder), name, None, None).version


def parent(version, relation):
    return {"digest": version.digest, "reference": version.reference, "relation": relation}


@pytest.fixture
def family(registry, tmp_path):
    """`one` was trained; `two` continued it; `both` merged the two; a GGUF was made of one and two."""
    one = push(registry, small_adapter(tmp_path / "one", 1, record=recorded()), "one")
    two = push(registry, small_adapter(tmp_path / "two", 2, record={"parents": [parent(one, "continued")]}), "two")
    parents = [parent(one, "merged"), parent(two, "merged"), {**parent(two, "merged"), "digest": "sha256:" + "f" * 64}]
    both = push(registry, small_adapter(tmp_path / "both", 3, record={"parents": parents}), "both")
    made = Derived("gguf", "/models/both.gguf", "sha256:" + "a" * 64, 10, {"target": "gguf"}, {"passed": True})
    registry.artifacts.add([(one, 1.0), (two, 0.5)], made)
    return one, two, both


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_graph_is_the_same_family_from_every_member(registry, family, start):
    one, two, both = (version.digest for version in family)
    graph = lineage_of(registry, family[start])
    artifact = "sha256:" + "a" * 64 + " /models/both.gguf"
    assert {(edge.source, edge.target, edge.relation) for edge in graph.edges.values()} == {
        (IDS.weights_id, RUN["id"], "trained on"),
        (RUN["id"], one, "made"),
        (one, two, "continued"),
        (one, both, "merged"),
        (two, both, "merged"),
        ("sha256:" + "f" * 64, both, "merged"),
        (one, artifact, "exported"),
        (two, artifact, "exported at 0.5"),
    }
    assert set(graph.nodes) == {end for edge in graph.edges for end in edge} and graph.whole
    assert "not in this registry" in graph.nodes["sha256:" + "f" * 64].detail
    assert {node.id for node in graph.roots()} == {IDS.weights_id, "sha256:" + "f" * 64}
    assert json.loads(json.dumps(graph.as_json()))["start"] == family[start].digest


def test_an_artifact_knows_all_its_sources(registry, family):
    one, two, _ = family
    for version in (one, two):
        (artifact,) = registry.artifacts.of(version)
        assert [(source["reference"], source["weight"]) for source in artifact.sources] == [("one:1", 1.0), ("two:1", 0.5)]
        assert artifact.reference == version.reference


def test_a_record_of_an_older_adreg_has_its_one_source(registry, family):
    registry.db.execute("update artifact set recipe = '{}'")
    (artifact,) = registry.artifacts.of(family[1])
    assert [source["reference"] for source in artifact.sources] == ["two:1"]


def test_a_line_of_parents_ends(registry, tmp_path):
    last = push(registry, small_adapter(tmp_path / "0", 0), "v")
    for number in range(1, 12):
        record = {"parents": [parent(last, "continued")]}
        last = push(registry, small_adapter(tmp_path / f"{number}", number, record=record), "v")
    assert len(lineage_of(registry, last).nodes) == 12
