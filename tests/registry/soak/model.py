"""A registry as a plain model: dictionaries and lists, and what a user may do with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from adreg.errors import ConflictError, NotFoundError, YankedError


@dataclass
class Version:
    content: int
    yanked: bool = False


@dataclass
class Named:
    """One adapter of the model: its versions in order, its aliases by number."""

    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    removed: bool = False
    purged: bool = False

    def newest(self) -> int | None:
        return next((number for number in range(len(self.versions), 0, -1) if not self.versions[number - 1].yanked), None)

    def number_of(self, content: int) -> int | None:
        return next((number for number, each in enumerate(self.versions, 1) if each.content == content), None)


Model = dict[str, Named]


def push(model: Model, name: str, content: int, alias: str | None) -> None:
    there = model.setdefault(name, Named())
    known = there.number_of(content)
    if there.removed or (known and there.versions[known - 1].yanked):
        raise ConflictError("removed, or yanked")
    if known is None:
        there.versions.append(Version(content))
        known = len(there.versions)
    if alias:
        there.aliases[alias] = known


def point(model: Model, name: str, number: int, alias: str, expect: int | str | None) -> None:
    there = live(model, name)
    version(there, number)
    if there.versions[number - 1].yanked:
        raise YankedError(name, "", "")
    if expect != "anything" and there.aliases.get(alias) != expect:
        raise ConflictError("moved")
    there.aliases[alias] = number


def unpoint(model: Model, name: str, alias: str) -> None:
    if live(model, name).aliases.pop(alias, None) is None:
        raise NotFoundError("alias", alias)


def yank(model: Model, name: str, number: int) -> None:
    there = live(model, name)
    version(there, number)
    if number in there.aliases.values():
        raise ConflictError("aliases mean it")
    there.versions[number - 1].yanked = True


def unyank(model: Model, name: str, number: int) -> None:
    version(live(model, name), number).yanked = False


def remove(model: Model, name: str) -> None:
    live(model, name).removed = True


def restore(model: Model, name: str) -> None:
    there = model.get(name)
    if there is None or not there.removed:
        raise NotFoundError("removed adapter", name)
    if there.purged:
        raise ConflictError("purged")
    there.removed = False


def clean(model: Model) -> None:
    for there in model.values():
        there.purged |= there.removed


def live(model: Model, name: str) -> Named:
    there = model.get(name)
    if there is None or there.removed:
        raise NotFoundError("adapter", name)
    return there


def version(there: Named, number: int) -> Version:
    if number > len(there.versions):
        raise NotFoundError("version", str(number))
    return there.versions[number - 1]
