"""What a training needs, found: settings, base, parent, the run to go on with. Then it is carried out, pushed and told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adreg.cli.common import name_and_alias, quiet_libraries, registry
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.cli.train import NEWEST
from adreg.cli.trainstart import base_for, parent_of, recorded_base
from adreg.errors import ConflictError, Diverged, Interrupted, ProcessLost, UsageError
from adreg.references import Reference

if TYPE_CHECKING:
    from adreg.registry.intake import Pushed
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.train.config import TrainConfig
    from adreg.train.run import TrainRequest, TrainResult


@dataclass(frozen=True)
class Wishes:
    """What the command line says; `sets` are `a.b=value` strings, `resume` a run or `newest`; `launch` are the
    options that ask for several processes."""

    file: Path | None = None
    recipe: str | None = None
    base: str | None = None
    sets: tuple[str, ...] | list[str] = ()
    out: Path | None = None
    push: str | None = None
    resume: str | None = None
    force: bool = False
    launch: str = ""


@dataclass(frozen=True)
class Order:
    """A training to be carried out: where it is read from and goes to. `before` is the record of the run it goes on with."""

    config: TrainConfig
    base: BaseRecord
    folder: Path
    push: Reference | None = None
    recipe: str | None = None
    before: dict[str, Any] | None = None
    force: bool = False


def carry_out(wishes: Wishes, out: Output) -> None:
    """Train, push if asked, and tell."""
    from adreg.cli.errors import exit_code
    from adreg.cli.traintold import tell
    from adreg.train.launch.member import FOLLOWS, is_started, leads
    from adreg.train.loop.world import in_turn, is_first

    found = registry()
    out = out if is_first() else Output(quiet=True)
    with in_turn(found.settings.home):
        order = placed(found, wishes, out)
    if order.folder.exists():
        raise ConflictError(f"{order.folder} already exists", "choose another folder with --out")
    try:
        result = run_training(found, order, out)
    except (Interrupted, ProcessLost, Diverged) as error:
        if not is_first():
            raise SystemExit(FOLLOWS if is_started() and not leads() else exit_code(error)) from None
        if not isinstance(error, Diverged):
            error.options = wishes.launch
        raise
    if is_first():
        tell(result, push_trained(found, result, order.push) if order.push else None, out)


def dry(wishes: Wishes, probe: bool, out: Output) -> None:
    """Say what `carry_out` would do."""
    from adreg.cli.planview import show_plan
    from adreg.train.plan import plan_training

    found = registry()
    order = placed(found, wishes, out)
    quiet_libraries()
    with requested(found, order) as request:
        plan = plan_training(request, probe, progress(out.human))
    show_plan(plan, order.base.name, out)


def placed(found: Registry, wishes: Wishes, out: Output) -> Order:
    """The order that `wishes` make."""
    if wishes.resume:
        return _resumed(found, wishes, out)
    from adreg.train.config import load_config

    config = load_config(wishes.recipe, wishes.file, wishes.sets)
    push = name_and_alias(wishes.push) if wishes.push else None
    folder = wishes.out or Path(push.name.rpartition("/")[2] if push else "adapter")
    return Order(config, base_for(found, wishes.base, config, out), folder, push, wishes.recipe)


def _resumed(found: Registry, wishes: Wishes, out: Output) -> Order:
    from adreg.train.config import change_config, recorded_config

    if wishes.recipe or wishes.file:
        raise UsageError("a resumed run has its settings already", "leave out the recipe or file; --set changes one")
    before = _resumable(found, wishes.resume or NEWEST)
    config, own = change_config(recorded_config(before["config"]), wishes.sets), before.get("process") or {}
    text = wishes.push or own.get("push")
    push = name_and_alias(text) if text else None
    folder = wishes.out or Path(own.get("output") or "adapter")
    base = found.bases.ensure(wishes.base, progress(out.human)) if wishes.base else recorded_base(found, before)
    return Order(config, base, folder, push, before.get("recipe"), before, wishes.force)


def _resumable(found: Registry, run: str) -> dict[str, Any]:
    from adreg.train.launch.member import run_to_join
    from adreg.train.loop.world import is_first

    joined = run_to_join() or (run if run != NEWEST and not is_first() else None)
    if joined:  # the first process goes on with it already
        return found.runs.get(joined)
    found.runs.settle()
    ready = found.runs.resumable()
    if run == NEWEST:
        if not ready:
            raise UsageError("no run can go on: none was stopped that has a checkpoint", "adreg runs ls shows how they ended")
        return found.runs.get(ready[0]["id"])
    record = found.runs.get(run)
    if record["id"] not in [one["id"] for one in ready]:
        kept = "runs now" if record["outcome"] == "running" else f"is {record['outcome']} and has no checkpoint"
        able = f"these can: {', '.join(one['id'] for one in ready[:3])}" if ready else "adreg runs ls shows the others"
        raise ConflictError(f"run {record['id']} cannot go on: it {kept}", able)
    return record


def run_training(found: Registry, order: Order, out: Output, reproduces: str | None = None) -> TrainResult:
    """Train on the base's files as they are now, recorded from the first second; `reproduces` is the run it repeats."""
    from adreg.cli.trainview import TrainView
    from adreg.train.run import train

    quiet_libraries()
    found.bases.current(order.base, progress(out.human))
    with requested(found, order, {"reproduces": reproduces} if reproduces else {}) as request:
        view = TrainView(found.runs.recorder(), out)
        return train(request, view, view)


@contextmanager
def requested(found: Registry, order: Order, more: Mapping[str, Any] = MappingProxyType({})) -> Iterator[TrainRequest]:
    """The request, and a folder with the parent's files while it lasts. `more` is told of the process."""
    from adreg.train.record.opening import opening_record
    from adreg.train.record.record import record_of
    from adreg.train.run import TrainRequest

    base, config = order.base, order.config
    ids = vars(base.card.ids)
    with TemporaryDirectory(prefix="adreg-parent-") as scratch:
        parent, told = parent_of(found, config, base, Path(scratch))
        record = opening_record({"name": base.name, **ids}, config, order.recipe, told)
        if order.before:
            record = record_of(order.before, process=record.process, config=record.config, config_id=record.config_id)
        wishes = {"output": str(order.folder.absolute()), "push": _text(order.push), **more}
        record = replace(record, process={**record.process, **wishes})
        folder = found.runs.folder(record.id)
        yield TrainRequest(
            base_folder=base.folder,
            base_name=base.name,
            base_ids=ids,
            config=config,
            output=order.folder,
            run_folder=folder,
            resume_from=folder if order.before else None,
            force=order.force,
            parent=parent,
            record=record,
        )


def push_trained(found: Registry, result: TrainResult, name: Reference) -> Pushed:
    """Push what a training wrote."""
    from adreg.registry.push import plan_push

    return found.adapters.push(plan_push(result.folder), name.name, name.alias, None)


def _text(push: Reference | None) -> str | None:
    return None if push is None else f"{push.name}:{push.alias}" if push.alias else push.name
