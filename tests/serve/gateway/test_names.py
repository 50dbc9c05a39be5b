"""Names at a gateway mean what they mean at a server: versions that stay what they are, or an error that says why."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adreg.errors import ConflictError
from adreg.references import parse_reference
from adreg.registry.labels import Labels
from adreg.registry.store.changes import Changes
from adreg.serve.gateway.dialects import Dialect, OpenAIDialect, SglangDialect, immutable_name
from adreg.serve.models.catalog import Catalog, ServedModel
from adreg.serve.server.keys import Key, Keyring
from tests.serve.gateway.scripted import Gate, Scripted, answer, gate, said, sends
from tests.serve.test_registered import Library

WELL = sends(answer(said("well")))


@pytest.fixture
def library(home: Path, tmp_path: Path) -> Library:
    return Library(home, tmp_path)


def engine(base: str = "tiny", **told: Any) -> Scripted:
    return Scripted(WELL, models=[{"id": base, "parent": None, **told}, {"id": "x", "parent": base}])


def usable(found: Gate) -> bool:
    return any(one.usable for one in found.fleet.upstreams)


def test_an_alias_is_the_version_that_it_means_when_the_request_comes(library: Library) -> None:
    one = library.push("team/sql", "prod")
    behind = engine()
    with gate(behind, catalog=library.models(), dialect=OpenAIDialect()) as found:
        first = found.ask(model="team/sql:prod")
        two = library.push("team/sql", "prod")
        answers = [found.ask(model=name) for name in ("team/sql:prod", "team/sql:1", f"team/sql@{one.digest[:19]}", "base")]
        listed = [model["id"] for model in found.http.get("/v1/models").json()["data"]]
        told = found.http.get("/v1/models/team/sql:prod").json()
    assert [asked.json["model"] for asked in behind.asked] == [
        f"team/sql@{digest}" for digest in (one.digest, two.digest, one.digest, one.digest)
    ] + ["tiny"]
    adapters = [answered.headers["x-adreg-adapter"] for answered in (first, *answers)]
    assert adapters == [one.digest, two.digest, one.digest, one.digest, "none"]
    assert listed == ["tiny", "team/sql", "team/sql:2", "team/sql:prod", "team/sql:1"]
    assert (told["root"], told["parent"], told["reference"]) == (two.digest, "tiny", "team/sql:2")


@dataclass
class Counted:
    """A catalog that counts how often it is asked."""

    catalog: Catalog
    asked: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.catalog)

    def resolve(self, name: str) -> ServedModel:
        self.asked.append(name)
        return self.catalog.resolve(name)


def test_a_name_is_looked_up_once_until_anything_changes(library: Library) -> None:
    one = library.push("sql", "prod")
    catalog, database = Counted(library.models()), library.registry.settings.database
    with gate(engine(), catalog=catalog, dialect=OpenAIDialect(), changes=Changes(database).count) as found:

        def adapter() -> str:
            return found.ask(model="sql:prod").headers["x-adreg-adapter"]

        assert [adapter() for _ in range(5)] == [one.digest] * 5
        assert catalog.asked == ["sql:prod"]
        two = library.push("sql", "prod")
        assert [adapter() for _ in range(5)] == [two.digest] * 5
        assert catalog.asked == ["sql:prod"] * 2
        with closing(sqlite3.connect(database, isolation_level=None)) as writer:
            writer.execute("begin exclusive")  # whether anything changed cannot be told now
            assert Changes(database).count() is None or adapter() == two.digest
            writer.execute("rollback")
        library.registry.adapters.set_alias(parse_reference("sql:1"), "prod")
        assert adapter() == one.digest


def test_what_is_not_there_is_a_404_and_what_belongs_elsewhere_a_409_with_the_reason(library: Library) -> None:
    library.push("far", base=library.other)
    library.push("bad")
    Labels(library.registry.db).yank(parse_reference("bad:1"), "it swears")
    behind = engine()
    with gate(behind, catalog=library.models(), dialect=OpenAIDialect()) as found:
        assert found.error(404, model="nobody") == "model_not_found"
        assert found.error(404, model="../etc/passwd") == "model_not_found"
        refused = found.ask(model="far")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "incompatible_base")
        assert "the shape of its base, but other weights" in refused.json()["error"]["message"]
        yanked = found.ask(model="bad:1")
        assert yanked.status_code == 404 and "it swears" in yanked.text
    assert not behind.asked


def test_a_key_sees_its_own_models_only(library: Library) -> None:
    library.push("sql")
    library.push("poems")
    keys = Keyring(lambda: {}).and_also("secret-of-the-team", Key("team", ("sql",)))
    bearer = {"authorization": "Bearer secret-of-the-team"}
    with gate(engine(), catalog=library.models(), dialect=OpenAIDialect(), keys=keys) as found:
        assert [found.ask(bearer, model=name).status_code for name in ("sql:1", "poems", "base")] == [200, 404, 404]
        data = found.http.get("/v1/models", headers=bearer).json()["data"]
        assert [model["id"] for model in data] == ["sql", "sql:1"]


@pytest.mark.parametrize(
    ("dialect", "model"), [(OpenAIDialect("m"), "sql@{}"), (SglangDialect("m"), "m:sql@{}"), (SglangDialect(), "tiny:sql@{}")]
)
def test_each_kind_of_engine_is_asked_in_its_own_words(library: Library, dialect: Dialect, model: str) -> None:
    version = library.push("sql")
    base = getattr(dialect, "base", None) or "tiny"
    behind = engine(base)
    with gate(behind, catalog=library.models(), dialect=dialect) as found:
        assert [found.ask(model=name).status_code for name in ("sql", "tiny")] == [200, 200]
    assert [asked.json["model"] for asked in behind.asked] == [model.format(version.digest), base]


def test_an_answer_that_names_another_adapter_is_none(library: Library) -> None:
    version = library.push("sql")
    body = said("well")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-adreg-adapter: %s\r\n\r\n"
    behind = engine()
    with gate(behind, catalog=library.models(), dialect=OpenAIDialect()) as found:
        for told, status in ((b"none", 502), (b"sha256:" + b"0" * 64, 502), (version.digest.encode(), 200)):
            behind.script = sends(head % (len(body), told) + body)
            assert found.ask(model="sql").status_code == status
        assert found.ask(model="base").status_code == 502


def test_an_upstream_that_serves_another_base_is_left_out(library: Library) -> None:
    digest = library.tiny.card.digest
    for told, why in (
        (engine("other"), "does not serve 'tiny' but other"),
        (engine(root="b3:" + "0" * 64), "serves another base as 'tiny': b3:0000"),
    ):
        with gate(told, catalog=library.models(), dialect=OpenAIDialect()) as found:
            assert found.error(503) == "no_upstream"
            assert found.fleet.upstreams[0].why.startswith(why)
            told.models = engine(root=digest).models
            deadline = time.monotonic() + 10
            while not usable(found):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert found.ask().status_code == 200


def test_without_a_registry_names_pass_as_they_are_and_what_upstreams_list_is_listed() -> None:
    one, other = engine("m", root="/srv/m"), engine("m")
    other.models.append({"id": "only-here", "parent": "m"})
    with gate(one, other) as found:
        answers = [found.ask(model=name) for name in ("m", "x", "m:whatever")]
        assert [answered.status_code for answered in answers] == [200, 200, 200]
        text = found.http.get("/metrics").text
        assert "x-adreg-adapter" not in answers[1].headers
        listed = found.http.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["m", "x", "only-here"]
        assert found.http.get("/v1/models/only-here").json()["parent"] == "m"
        assert found.http.get("/v1/models/nobody").status_code == 404
    asked = [asked.json["model"] for behind in (one, other) for asked in behind.asked]
    assert sorted(asked) == ["m", "m:whatever", "x"]
    labels = ("base", "x", "other")  # a name that only a client has written is no label
    assert all(f'adreg_requests_total{{adapter="{label}",code="200"}} 1.0' in text for label in labels)


def test_an_immutable_name_is_that_of_the_version_not_of_the_alias() -> None:
    model = ServedModel("sql:prod", "tiny", "b3:0", "sha256:1", "sql:3")
    assert immutable_name(model) == "sql@sha256:1"
    with pytest.raises(ConflictError, match="splits names at ':'"):
        SglangDialect("org/m:q4").address({}, model)
