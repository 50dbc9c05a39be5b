"""Any sequence of changes, kills among them, leaves what a plain model of a registry says."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adreg.errors import ConflictError, NotFoundError, YankedError
from adreg.references import parse_reference
from adreg.registry.aliases import Move
from adreg.registry.push import plan_push
from adreg.registry.upkeep.backup import backup
from adreg.registry.upkeep.restore import restore_backup
from tests.registry.soak import model
from tests.registry.soak.builders import opened, small_adapter
from tests.registry.soak.operations import clean_up
from tests.registry.soak.oracle import debris, faults
from tests.registry.soak.scale import FULL, amount
from tests.registry.soak.tracing import can_trace, traced

NAMES, ALIASES = ("voice", "ns/other"), ("prod", "beta")
CONTENTS = 6
names, aliases, contents = st.sampled_from(NAMES), st.sampled_from(ALIASES), st.integers(0, CONTENTS - 1)
picks = st.integers(0, 5)


class RegistryMachine(RuleBasedStateMachine):
    """Every rule changes the model and the registry alike; every invariant compares all that can be asked."""

    steps = kills = 0

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="adreg-model-"))
        self.home = self.root / "home"
        self.sources = [small_adapter(self.root / f"content{index}", index) for index in range(CONTENTS)]
        self.weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in self.sources]
        self.model: model.Model = {}
        self.saved: tuple[Path, model.Model] | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def change(self, change: Callable[[model.Model], None], work: Callable[[], object]) -> None:
        """Do the same to both; they must agree on whether it is allowed, and a refused change must change nothing."""
        RegistryMachine.steps += 1
        after = deepcopy(self.model)
        try:
            change(after)
        except (ConflictError, NotFoundError) as expected:
            with pytest.raises(type(expected)):
                work()
        else:
            work()
            self.model = after

    def _push(self, name: str, content: int, alias: str | None) -> None:
        with opened(self.home) as registry:
            registry.adapters.push(plan_push(self.sources[content]), name, alias, None)

    def _point(self, name: str, number: int, alias: str, move: Move) -> None:
        with opened(self.home) as registry:
            registry.adapters.set_alias(parse_reference(f"{name}:{number}"), alias, move)

    def _clean(self) -> None:
        with opened(self.home) as registry:
            clean_up(registry)

    @rule(name=names, content=contents, alias=st.none() | aliases)
    def push(self, name: str, content: int, alias: str | None) -> None:
        self.change(lambda state: model.push(state, name, content, alias), lambda: self._push(name, content, alias))

    @rule(name=names, pick=picks, alias=aliases)
    def point(self, name: str, pick: int, alias: str) -> None:
        number = pick + 1
        self.change(
            lambda state: model.point(state, name, number, alias, "anything"), lambda: self._point(name, number, alias, Move())
        )

    @rule(name=names, pick=picks, alias=aliases, expect=st.none() | st.integers(1, 4))
    def swap(self, name: str, pick: int, alias: str, expect: int | None) -> None:
        number = pick + 1
        self.change(
            lambda state: model.point(state, name, number, alias, expect),
            lambda: self._point(name, number, alias, Move(expect=expect)),
        )

    @rule(name=names, alias=aliases)
    def unpoint(self, name: str, alias: str) -> None:
        def work() -> None:
            with opened(self.home) as registry:
                registry.adapters.remove_alias(name, alias)

        self.change(lambda state: model.unpoint(state, name, alias), work)

    @rule(name=names, pick=picks, undo=st.booleans())
    def yank(self, name: str, pick: int, undo: bool) -> None:
        reference = parse_reference(f"{name}:{pick + 1}")

        def work() -> None:
            with opened(self.home) as registry:
                registry.labels.unyank(reference) if undo else registry.labels.yank(reference, "bad")

        self.change(lambda state: (model.unyank if undo else model.yank)(state, name, pick + 1), work)

    @rule(name=names)
    def remove(self, name: str) -> None:
        def work() -> None:
            with opened(self.home) as registry:
                registry.adapters.remove(name)

        self.change(lambda state: model.remove(state, name), work)

    @rule(name=names)
    def restore(self, name: str) -> None:
        def work() -> None:
            with opened(self.home) as registry:
                registry.adapters.restore(name)

        self.change(lambda state: model.restore(state, name), work)

    @rule()
    def clean(self) -> None:
        self.change(model.clean, self._clean)
        if (self.home / "adreg.db").exists():
            assert debris(self.home) == []

    @precondition(lambda self: (self.home / "adreg.db").exists())
    @rule()
    def save(self) -> None:
        file = self.root / "saved.tar"
        with opened(self.home) as registry:
            backup(registry, file)
        self.saved = file, deepcopy(self.model)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def bring_back(self) -> None:
        """The backup becomes the registry, in another place."""
        assert self.saved
        file, self.model = self.saved[0], deepcopy(self.saved[1])
        shutil.rmtree(self.home)
        self.home = Path(tempfile.mkdtemp(dir=self.root)) / "home"
        restore_backup(file, self.home)

    @precondition(lambda self: can_trace())
    @rule(name=names, content=contents, alias=aliases, step=st.integers(0, 140))
    def killed_push(self, name: str, content: int, alias: str, step: int) -> None:
        self.killed(
            partial(model.push, name=name, content=content, alias=alias), partial(self._push, name, content, alias), step
        )

    @precondition(lambda self: can_trace())
    @rule(step=st.integers(0, 60))
    def killed_clean(self, step: int) -> None:
        self.killed(model.clean, self._clean, step)

    def killed(self, change: Callable[[model.Model], None], work: Callable[[], object], step: int) -> None:
        """Kill the work at a step: afterwards the registry is as before or as after, and the model follows it."""
        outcome = traced(work, kill_at=step)
        RegistryMachine.kills += outcome.killed
        after = deepcopy(self.model)
        try:
            change(after)
        except (ConflictError, NotFoundError):
            return
        if change is model.clean:
            self.follow_purges(after, outcome.acknowledged)
        elif outcome.acknowledged or self.says(after):
            self.model = after

    def follow_purges(self, after: model.Model, acknowledged: bool) -> None:
        """Each adapter is let go of in a transaction of its own."""
        for name, there in after.items():
            if there.purged and not self.model[name].purged:
                gone = deepcopy(self.model)
                gone[name].purged = True
                if acknowledged or self.says(gone):
                    self.model = gone

    def says(self, expected: model.Model) -> bool:
        try:
            self.compare(expected)
        except (AssertionError, NotFoundError, ConflictError):
            return False
        return True

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "home"):
            assert faults(self.home) == []
            self.compare(self.model)

    def compare(self, expected: model.Model) -> None:
        with opened(self.home) as registry:
            shown = {name: there for name, there in expected.items() if not there.removed and there.versions}
            assert registry.adapters.names() == sorted(shown)
            newest = {name: there.newest() for name, there in shown.items() if there.newest()}
            assert {each.adapter: each.number for each in registry.adapters.all()} == newest
            told = {(each.adapter, each.name): each.number for each in registry.adapters.aliases()}
            assert told == {(name, alias): number for name, there in shown.items() for alias, number in there.aliases.items()}
            for name, there in shown.items():
                self.compare_adapter(registry, name, there)
            for name, there in expected.items():
                if there.removed:
                    with pytest.raises(NotFoundError):
                        registry.adapters.resolve(parse_reference(name))
                rows = registry.db.execute("select purged_at is not null from adapter where name = ?", [name]).fetchall()
                assert not there.versions or rows == [(there.purged,)]

    def compare_adapter(self, registry, name: str, there: model.Named) -> None:
        """Every kind of reference means what it should, and the bytes are those that were pushed."""
        listed = registry.adapters.versions(name)
        assert [each.number for each in listed] == list(range(len(there.versions), 0, -1))
        for record in listed:
            meant = there.versions[record.number - 1]
            assert (record.yanked is not None) == meant.yanked
            weights = registry.blobs.path(record.files["adapter_model.safetensors"]).read_bytes()
            assert hashlib.sha256(weights).digest() == hashlib.sha256(self.weights[meant.content]).digest()
            assert registry.adapters.resolve(parse_reference(f"{name}@{record.digest[:19]}")).number == record.number
            if meant.yanked:
                with pytest.raises(YankedError):
                    registry.adapters.resolve(parse_reference(f"{name}:{record.number}"))
            else:
                assert registry.adapters.resolve(parse_reference(f"{name}:{record.number}")).digest == record.digest
        for alias, number in there.aliases.items():
            assert registry.adapters.resolve(parse_reference(f"{name}:{alias}")).number == number
        if there.newest():
            assert registry.adapters.resolve(parse_reference(name)).number == there.newest()


@pytest.mark.timeout(1800)
def test_a_registry_does_what_its_model_says():
    machine = RegistryMachine.TestCase
    machine.settings = settings(
        max_examples=amount(150, 8),
        stateful_step_count=amount(40, 20),
        derandomize=not FULL,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if FULL else (Phase.generate,),
    )
    machine().runTest()
    print(f"state machine: {RegistryMachine.steps} changes, {RegistryMachine.kills} kills, no difference from the model")
