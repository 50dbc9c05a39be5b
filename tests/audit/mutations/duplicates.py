"""Mutations that rules of adreg/audit/rules/duplicates.py must find."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from adreg.audit.subject import Neighbour, ParentFact, RegistryFacts, Subject
from adreg.formats.bases.fingerprint import BaseIds
from tests.audit.clean import Clean
from tests.audit.mutations import CONFIG, WEIGHTS, Array, Mutation, header, plain, tensors

Change = Callable[[dict[str, Array]], None]


def identity(loaded: dict[str, Array]) -> None:
    pass


def rotated(loaded: dict[str, Array]) -> None:
    """Another basis of every rank space: A becomes Q·A and B becomes B·Qᵀ."""
    rng = np.random.default_rng(7)
    for name in [name for name in loaded if name.endswith("lora_A.weight")]:
        other = name.replace("lora_A", "lora_B")
        turn = np.linalg.qr(rng.normal(size=(loaded[name].shape[0],) * 2))[0].astype(np.float32)
        for key, value in ((name, turn @ loaded[name].astype(np.float32)), (other, loaded[other].astype(np.float32) @ turn.T)):
            loaded[key] = value.astype(loaded[key].dtype)


def noisy(seed: int) -> Change:
    """An unrelated adapter of the same shapes."""

    def change(loaded: dict[str, Array]) -> None:
        rng = np.random.default_rng(seed)
        for name, value in loaded.items():
            loaded[name] = (0.05 * rng.normal(size=value.shape)).astype(value.dtype)

    return change


def beside(folder: Path, name: str, change: Change) -> Path:
    """A changed copy of the adapter in `folder`, next to it."""
    place = folder.with_name(f"{folder.name}-{name}")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    tensors(change)(place)
    return place


def neighbour(folder: Path, trained_on: BaseIds | None = None) -> Neighbour:
    files = {name: folder / name for name in (CONFIG, WEIGHTS)}
    return Neighbour(folder.name, hashlib.sha256(files[WEIGHTS].read_bytes()).hexdigest(), trained_on, files)


def place_of(subject: Subject) -> Path:
    return subject.inspection.files[WEIGHTS].parent


def facts(subject: Subject, *neighbours: Neighbour) -> Subject:
    digest = hashlib.sha256((place_of(subject) / WEIGHTS).read_bytes()).hexdigest()
    return replace(subject, registry=RegistryFacts("mine", weights_sha256=digest, neighbours=neighbours))


def next_to(change: Change) -> Callable[[Subject], Subject]:
    """A changed copy of the subject is its neighbour."""
    return lambda subject: facts(subject, neighbour(beside(place_of(subject), "copy", change)))


def saved_again(subject: Subject) -> Subject:
    """A neighbour with the same tensors, in a file with other metadata."""
    place = beside(place_of(subject), "copy", identity)
    header(lambda found: found.update(__metadata__={"format": "pt", "note": "again"}))(place)
    return facts(subject, neighbour(place))


def mixed(folder: Path) -> None:
    """Become 0.7 x one + 0.3 x another adapter, as `cat` merges them: twice the rank."""
    one, two = (beside(folder, name, noisy(seed)) for name, seed in (("one", 1), ("two", 2)))
    from adreg.formats.safetensors import open_safetensors

    parts = [{name: view.float32() for name, view in open_safetensors(place / WEIGHTS).items()} for place in (one, two)]

    def change(loaded: dict[str, Array]) -> None:
        for name in list(loaded):
            if name.endswith("lora_A.weight"):
                loaded[name] = np.concatenate([part[name] for part in parts])
                other = name.replace("lora_A", "lora_B")
                weighted = [(weight * part[other].astype(np.float32)) for weight, part in zip((0.7, 0.3), parts, strict=True)]
                loaded[other] = np.concatenate(weighted, axis=1).astype(loaded[other].dtype)

    tensors(change)(folder)
    config = json.loads((folder / CONFIG).read_text())
    doubled = {
        key: {name: 2 * value for name, value in (config.get(key) or {}).items()} for key in ("rank_pattern", "alpha_pattern")
    }
    (folder / CONFIG).write_text(
        json.dumps({**config, **doubled, "r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]})
    )


def among_its_parts(subject: Subject) -> Subject:
    folder = place_of(subject)
    places = (folder.with_name(f"{folder.name}-{name}") for name in ("one", "two"))
    return facts(subject, *(neighbour(place) for place in places), neighbour(beside(folder, "stranger", noisy(3))))


def plain_ranks(clean: Clean) -> bool:
    """rsLoRA's scaling does not double with rank and alpha."""
    return plain(clean) and "rsLoRA" not in clean.name


def parent(change: Callable[[Subject], ParentFact]) -> Callable[[Subject], Subject]:
    return lambda subject: replace(subject, registry=RegistryFacts("mine", parents=(change(subject),)))


def elsewhere(subject: Subject) -> ParentFact:
    assert subject.trained_on is not None
    ids = replace(subject.trained_on, weights_id="b3:0", values_id="b3:1")
    return ParentFact("other:1", "merged", Neighbour("other:1", "", ids))


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("D-DUP-1", alter=next_to(identity), applies_to=plain),
    Mutation("D-DUP-2", alter=next_to(rotated), applies_to=plain, label="rotated"),
    Mutation("D-DUP-2", alter=saved_again, applies_to=plain, label="saved again"),
    Mutation("D-SUB-1", mixed, applies_to=plain_ranks, alter=among_its_parts),
    Mutation("D-LIN-1", alter=parent(lambda _: ParentFact("gone:1", "continued")), label="absent"),
    Mutation("D-LIN-1", alter=parent(lambda _: ParentFact("mine:2", "merged", Neighbour("mine:2", ""), True)), label="cycle"),
    Mutation("D-LIN-1", alter=parent(elsewhere), label="another base"),
)
