"""What must hold after every trial, whatever was done to the registry."""

from __future__ import annotations

from adreg.registry.upkeep.fsck import fsck
from adreg.registry.upkeep.reading import ReadData
from tests.registry.soak.builders import opened, push
from tests.registry.soak.operations import Operation, Place, clean_up
from tests.registry.soak.oracle import debris, faults, state


def judged(operation: Operation, place: Place, acknowledged: bool, before: object, after: object) -> str:
    """Whether the change is `absent`, `whole` or made in `part`; fails where it is none of them, or the registry not sound."""
    assert faults(place.home) == []
    found = operation.seen(place)
    if operation.in_parts and found not in (before, after) and not acknowledged:
        operation.work(place)
        assert operation.seen(place) == after
        return "part"
    assert found == after if acknowledged else found in (before, after)
    return "whole" if found == after else "absent"


def still_works(place: Place) -> None:
    """The next push gets the next number; a check finds nothing wrong, and a clean-up leaves only what is needed."""
    versions = state(place.home).adapters.get("after", (False, ()))[1]
    assert push(place.home, place.sources / "next", "after") == f"after:{len(versions) + 1}"
    with opened(place.home) as registry:
        assert fsck(registry, ReadData()).problems == ()
        kept = state(place.home).adapters["after"]
        clean_up(registry)
        assert state(place.home).adapters["after"] == kept
    assert debris(place.home) == []
    assert faults(place.home) == []
