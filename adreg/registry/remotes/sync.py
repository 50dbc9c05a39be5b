"""This registry and a remote, brought together: a plan of what each lacks by digest, then its transfers, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from adreg.errors import ConflictError, NotFoundError
from adreg.progress import SILENT, Progress
from adreg.registry.manifest import Manifest
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.registry.remotes.remote import Remote
from adreg.registry.remotes.swap import aliases_of, remove_alias, swap_alias
from adreg.registry.remotes.transfer import receive, send

Side = Literal["ours", "theirs"]


@dataclass(frozen=True)
class AliasStep:
    """An alias that one side lacks or that means something else there: `ours` and `theirs` are digests."""

    name: str
    alias: str
    ours: str | None
    theirs: str | None

    def winner(self, prefer: Side | None) -> Side | None:
        """Whose meaning is copied to the other side: what only one side has, or the preferred one's."""
        if self.ours is None or self.theirs is None:
            return "theirs" if self.ours is None else "ours"
        return prefer

    def as_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class SyncPlan:
    """What is to be done, in order of number. `removed` are names that were removed here, which stay so.

    `mirror`: nothing goes to the remote, and its aliases become ours.
    """

    url: str
    outgoing: tuple[VersionRecord, ...]
    incoming: tuple[Manifest, ...]
    aliases: tuple[AliasStep, ...]
    prefer: Side | None
    removed: tuple[str, ...]
    mirror: bool = False

    @property
    def differing(self) -> tuple[AliasStep, ...]:
        """The aliases that are left as they are."""
        return tuple(step for step in self.aliases if self.winner(step) is None)

    @property
    def moving(self) -> tuple[AliasStep, ...]:
        return tuple(step for step in self.aliases if self.winner(step) is not None)

    def winner(self, step: AliasStep) -> Side | None:
        """Whose meaning both sides are to have; a mirror has no other than the remote's."""
        return "theirs" if self.mirror else step.winner(self.prefer)

    def as_json(self) -> dict[str, Any]:
        return {
            "remote": self.url,
            "send": [{"reference": version.reference, "digest": version.digest} for version in self.outgoing],
            "fetch": [{"reference": f"{each.name}:{each.number}", "digest": each.digest} for each in self.incoming],
            "aliases": [{**step.as_json(), "winner": self.winner(step)} for step in self.aliases],
            "removed": list(self.removed),
        }


def plan_sync(
    registry: Registry, remote: Remote, names: Iterable[str] = (), prefer: Side | None = None, mirror: bool = False
) -> SyncPlan:
    """What each side lacks of `names` (or of every name there is); nothing is changed.

    Aliases that mean different versions are left, unless `prefer` says whose meaning is to be both sides'. As a `mirror`
    this registry follows the remote: it sends nothing, and an alias that the remote lacks goes.
    """
    chosen = sorted(set(names) or {version.adapter for version in registry.adapters.all()} | set(remote.names()))
    gone = {row["name"] for row in registry.db.query("select name from adapter where deleted_at is not null")}
    outgoing: list[VersionRecord] = []
    incoming: list[Manifest] = []
    aliases: list[AliasStep] = []
    for name in chosen:
        if name in gone:
            continue
        here, there = _versions_here(registry, name), remote.versions(name)
        if not here and not there:
            raise NotFoundError("adapter", name)
        ours, theirs = {version.digest for version in here}, {manifest.digest for manifest in there}
        outgoing += [version for version in here if version.digest not in theirs and not mirror]
        incoming += [manifest for manifest in there if manifest.digest not in ours]
        aliases += _alias_steps(name, aliases_here(registry, name), remote.aliases(name), ours | theirs)
    removed = tuple(name for name in chosen if name in gone)
    return SyncPlan(remote.url, tuple(outgoing), tuple(incoming), tuple(aliases), prefer, removed, mirror)


def _versions_here(registry: Registry, name: str) -> list[VersionRecord]:
    try:
        return sorted(registry.adapters.versions(name), key=lambda version: version.number)
    except NotFoundError:
        return []


def aliases_here(registry: Registry, name: str) -> dict[str, str]:
    """As `aliases_of`; none for a name that is not here."""
    try:
        return aliases_of(registry, name)
    except NotFoundError:
        return {}


def _alias_steps(name: str, ours: dict[str, str], theirs: dict[str, str], known: set[str]) -> list[AliasStep]:
    """The aliases that differ; one that means a version which neither side lists is nobody's to copy."""
    steps = [AliasStep(name, alias, ours.get(alias), theirs.get(alias)) for alias in sorted({*ours, *theirs})]
    return [step for step in steps if step.ours != step.theirs and {step.ours, step.theirs} <= known | {None}]


def sync(registry: Registry, remote: Remote, plan: SyncPlan, progress: Progress = SILENT) -> list[ConflictError]:
    """Carry `plan` out. Cut off anywhere, a new plan holds what is left. Returns the aliases that would not move.

    An alias moves only while it means what it meant when the plan was made.
    """
    for version in plan.outgoing:
        send(registry, version, remote, progress=progress)
    for manifest in plan.incoming:
        receive(registry, remote, manifest, progress=progress)
    refused = []
    for step in plan.moving:
        try:
            _move(registry, remote, step, plan.winner(step))
        except ConflictError as error:
            refused.append(error)
    return refused


def _move(registry: Registry, remote: Remote, step: AliasStep, winner: Side | None) -> None:
    if winner == "ours" and step.ours is not None:
        remote.set_alias(step.name, step.alias, step.ours, step.theirs)
    elif step.theirs is not None:
        swap_alias(registry, step.name, step.alias, step.theirs, step.ours)
    elif step.ours is not None:
        remove_alias(registry, step.name, step.alias, step.ours)
