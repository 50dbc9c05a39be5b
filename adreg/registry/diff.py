"""What is different between two versions: configuration, updates, lineage, training, files and labels. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.registry.effects import Effect, compare
from adreg.registry.fields import Section, differing, flat, pairs
from adreg.registry.records import VersionRecord

if TYPE_CHECKING:
    from adreg.formats.adapters.adapter import Adapter
    from adreg.registry.registry import Registry

NOISE = frozenset(("runtime_config", "peft_version", "auto_mapping", "inference_mode"))


@dataclass(frozen=True)
class VersionDiff:
    """Two versions side by side: in each section a pair of values by field, and the effects of every module."""

    a: str
    b: str
    sections: dict[str, Section]
    effects: tuple[Effect, ...]

    @property
    def changed(self) -> dict[str, Section]:
        """The fields that differ, in the sections that have any."""
        return differing(self.sections)

    @property
    def only_a(self) -> list[str]:
        return [effect.module for effect in self.effects if effect.norm_b is None]

    @property
    def only_b(self) -> list[str]:
        return [effect.module for effect in self.effects if effect.norm_a is None]

    @property
    def moved(self) -> list[Effect]:
        """The modules whose update differs, the largest change first."""
        return sorted((each for each in self.effects if each.change > 0), key=lambda each: (-each.change, each.module))

    def as_json(self) -> dict[str, Any]:
        sections = {
            name: {key: {"a": pair[0], "b": pair[1], "same": pair[0] == pair[1]} for key, pair in section.items()}
            for name, section in self.sections.items()
        }
        return {
            "a": self.a,
            "b": self.b,
            "identical": not self.changed and not self.moved,
            **sections,
            "modules": [{**asdict(effect), "change": effect.change} for effect in self.effects],
        }


def diff_versions(registry: Registry, a: VersionRecord, b: VersionRecord) -> VersionDiff:
    """Compare two versions. Reads both weights files."""
    one, two = registry.adapters.open(a), registry.adapters.open(b)
    runs = _run(registry, a), _run(registry, b)
    sections = {
        "lineage": pairs(_lineage(registry, a), _lineage(registry, b)),
        "configuration": pairs(_configuration(one), _configuration(two)),
        "data": pairs(_data(runs[0]), _data(runs[1])),
        "training": pairs(_training(runs[0]), _training(runs[1])),
        "losses": pairs(_losses(runs[0]), _losses(runs[1])),
        "files": pairs(a.files, b.files),
        "labels": pairs(_labels(a), _labels(b)),
    }
    return VersionDiff(a.reference, b.reference, sections, tuple(_effects(one, two)))


def _effects(a: Adapter, b: Adapter) -> Iterable[Effect]:
    return [compare(name, a.by_name.get(name), b.by_name.get(name)) for name in sorted({*a.by_name, *b.by_name})]


def _lineage(registry: Registry, version: VersionRecord) -> dict[str, Any]:
    ids = version.trained_on
    parents = [f"{parent.reference} {parent.relation} ({parent.digest[7:19]})" for parent in registry.adapters.parents(version)]
    return {
        "base": version.base or version.summary.get("base_claim"),
        "evidence": version.summary.get("evidence"),
        **(vars(ids) if ids else {}),
        "parents": parents,
    }


def _configuration(adapter: Adapter) -> dict[str, Any]:
    """The fields of adapter_config.json that say what the adapter is, and what follows from them."""
    raw = {key: value for key, value in adapter.config.raw.items() if key not in NOISE}
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(raw.get(key), list):
            raw[key] = sorted(map(str, raw[key]))
    scalings = sorted({round(module.scaling, 6) for module in adapter.modules})
    follows = {"ranks": adapter.ranks, "scalings": scalings, "modules": len(adapter.modules), "parameters": adapter.parameters}
    return {**raw, **follows}


def _run(registry: Registry, version: VersionRecord) -> Mapping[str, Any]:
    return registry.runs.get(version.run) if version.run else {}


def _data(run: Mapping[str, Any]) -> dict[str, Any]:
    """Each training file by its digest, whatever it is called."""
    files = run.get("data") or []
    return {str(file.get("sha256") or file.get("path")): _data_name(file) for file in files}


def _data_name(file: Mapping[str, Any]) -> str:
    rows = f" ({file['rows']} rows)" if file.get("rows") is not None else ""
    return f"{Path(str(file.get('path'))).name}{rows}"


def _training(run: Mapping[str, Any]) -> dict[str, Any]:
    config = run.get("config")
    told = {key: run[key] for key in ("rows", "seed", "steps", "tokens", "trained_tokens", "trainable") if key in run}
    return {**told, **(dict(flat(config)) if isinstance(config, dict) else {})}


def _losses(run: Mapping[str, Any]) -> dict[str, Any]:
    scores, losses = run.get("eval") or {}, run.get("losses") or []
    last = losses[-1][1] if losses and isinstance(losses[-1], list | tuple) and len(losses[-1]) > 1 else None
    return {"held-out": scores.get("adapter"), "held-out before": scores.get("base"), "last step": last}


def _labels(version: VersionRecord) -> dict[str, Any]:
    return {"tags": list(version.tags), "notes": version.notes, "aliases": list(version.aliases), "yanked": version.yanked}
