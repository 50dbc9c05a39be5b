"""What must not grow with a registry: an index where small ones would not miss it. `bench.scale` measures the rest."""

import pytest

from adreg.errors import NotFoundError
from adreg.references import parse_reference
from adreg.registry import names
from adreg.registry.neighbours import OTHERS
from adreg.registry.store.database import now, transaction
from adreg.registry.versions import SELECT
from adreg.serve.models.offer import ONE_OF_EACH


def plan_of(registry, query, values=()):
    return [row[3] for row in registry.db.execute(f"explain query plan {query}", values)]


def test_neighbours_are_found_without_a_look_at_every_version(registry):
    plan = plan_of(registry, f"{SELECT} where {OTHERS}", [1, "b3:0", "adapter_model.safetensors", "sha256:0"])
    assert any("version_weights" in step for step in plan) and not any("SCAN version" in step for step in plan)


def test_the_weights_of_a_registry_are_read_from_an_index(registry):
    assert not any(step in ("SCAN version", "SCAN newest") for step in plan_of(registry, ONE_OF_EACH))


def test_a_name_that_is_not_there_is_compared_with_those_around_it(registry, monkeypatch):
    monkeypatch.setattr(names, "NEARBY", 3)
    with transaction(registry.db):
        rows = [(f"voice-{index:03}", now()) for index in range(50)] + [("zoice-020", now())]
        registry.db.conn.executemany("insert into adapter (name, created_at) values (?, ?)", rows)
    with pytest.raises(NotFoundError) as error:
        registry.adapters.resolve(parse_reference("voice-020x"))
    assert error.value.close[0] == "voice-020" and "zoice-020" not in error.value.close
