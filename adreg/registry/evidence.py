"""The ways to know what a file is: its bytes, its tensors, its ids, and what it says of itself. Each gives matches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import AdregError
from adreg.formats.digests import file_sha256
from adreg.progress import SILENT, Progress
from adreg.registry.records import VersionRecord

if TYPE_CHECKING:
    from adreg.formats.safetensors import SafetensorsFile
    from adreg.registry.registry import Registry

PROVEN, CLAIMED = "proven", "claimed"
PREFIX = "adreg."
GENERAL = ("general.architecture", "general.name", "general.type")
Inside = dict[str, Any]


@dataclass(frozen=True)
class Match:
    """What the traced thing is, or was made from. `evidence` says how that is known; `certainty` is `proven` when content
    was hashed and `claimed` when the file only says so itself."""

    kind: str
    reference: str
    digest: str
    evidence: str
    certainty: str


def by_bytes(registry: Registry, path: Path) -> Iterator[Match]:
    """By the SHA-256 of a file; one whose size nobody has is not read."""
    size = path.stat().st_size
    known = registry.db.execute("select 1 from blob where size = ? limit 1", [size]).fetchone()
    if not known and not registry.artifacts.of_size(size):
        return
    digest = sha256_of(path)
    query = (
        "select adapter.name || ':' || number as reference, version.digest as digest, path from version_file "
        "join version on version.id = version_id join adapter on adapter.id = adapter_id "
        "where version_file.digest = ? and deleted_at is null order by version.id"
    )
    for row in registry.db.query(query, [digest]):
        yield Match("version", row["reference"], row["digest"], f"its bytes are {row['path']} of that version", PROVEN)
    for artifact in registry.artifacts.by_digest(str(digest)):
        made = f"its bytes are the {artifact.kind} that was made of it on {artifact.created_at[:10]}"
        source = next((each for each in artifact.sources if each["reference"] == artifact.reference), artifact.sources[0])
        yield Match("artifact of", artifact.reference, source["digest"], made, PROVEN)


def read_gguf_claims(path: Path) -> tuple[Mapping[str, Any], Inside]:
    from adreg.formats.gguf.header import read_gguf

    file = read_gguf(path)
    own = {key.removeprefix(PREFIX): value for key, value in file.fields.items() if key.startswith(PREFIX)}
    general: Inside = {key: file.fields[key] for key in GENERAL if key in file.fields}
    return own, {**general, "tensors": len(file.tensors), **short_texts(own)}


def by_tensors(registry: Registry, path: Path, inside: Inside) -> Iterator[Match]:
    """By the content of the tensors, whatever metadata and order the file has."""
    from adreg.formats.adapters.familykeys import read_key
    from adreg.formats.safetensors import open_safetensors

    file = open_safetensors(path)
    inside |= {"tensors": len(file), "first tensor": next(iter(file), None)}
    if any(read_key(name) for name in file):
        yield from _by_identity(registry, file, inside)
    else:
        yield from _by_leaves(registry, file)


def _by_identity(registry: Registry, file: SafetensorsFile, inside: Inside) -> Iterator[Match]:
    from adreg.registry.identity import tensors_id

    inside["tensors id"] = wanted = tensors_id(file)
    for version in _with_identity(registry, wanted):
        yield Match("version", version.reference, version.digest, "it holds exactly that version's tensors", PROVEN)


def _with_identity(registry: Registry, wanted: str) -> Iterator[VersionRecord]:
    """The versions whose tensors have the id `wanted`; those that an older adreg pushed are read for it."""
    from adreg.registry.identity import tensors_id
    from adreg.registry.versions import find_versions

    same = "json_extract(summary, '$.tensors') = ?"
    yield from find_versions(registry.db, f"deleted_at is null and {same} order by version.id", [wanted])
    older = "deleted_at is null and purged_at is null and json_extract(summary, '$.tensors') is null"
    for version in find_versions(registry.db, older):
        if tensors_id(registry.adapters.inspect(version).sound_file()) == wanted:
            yield version


def _by_leaves(registry: Registry, file: SafetensorsFile) -> Iterator[Match]:
    """By the hashes of its tensors: a file of a base holds nothing but tensors of that base."""
    from adreg.registry.identity import stored_leaf

    rows = [(name, weights_id, json.loads(leaves)) for name, weights_id, leaves in registry.db.execute(
        "select name, weights_id, leaves from base order by id")]  # fmt: skip
    likely = [(name, id_, leaves) for name, id_, leaves in rows if set(file) <= set(leaves)]
    found = {name: stored_leaf(view) for name, view in file.items()} if likely else {}
    for name, weights_id, leaves in likely:
        if all(leaves[tensor][0] == leaf for tensor, leaf in found.items()):
            yield Match("base file", name, weights_id, f"its {len(file)} tensors are that base's", PROVEN)


def by_base_ids(registry: Registry, folder: Path, inside: Inside, progress: Progress = SILENT) -> Iterator[Match]:
    """By the ids of a checkpoint folder."""
    try:
        ids = registry.bases.look(str(folder.absolute()), progress).card.ids
    except AdregError as error:
        inside["damaged"] = str(error)
        return
    inside["weights_id"] = ids.weights_id
    same = {"weights_id": "its weights are that base's", "content_id": "its tensors are that base's, under other names",
            "values_id": "its values are that base's, in another type"}  # fmt: skip
    for column, evidence in same.items():
        rows = registry.db.execute(f"select name, weights_id from base where {column} = ? order by id", [getattr(ids, column)])
        found = [Match("base", name, weights_id, evidence, PROVEN) for name, weights_id in rows]
        if found:
            yield from found
            return


def by_claims(registry: Registry, record: Mapping[str, Any], where: str) -> Iterator[Match]:
    """By the ids that a merge or a training wrote: adapter.N.digest and base.weights_id, or a record of a run."""
    for key, value in record.items():
        if key.startswith("adapter.") and key.endswith(".digest"):
            named = str(record.get(key.removesuffix("digest") + "reference"))
            yield from _claimed_versions(registry, str(value), named, where)
    base = record.get("base")
    weights_id = record.get("base.weights_id") or (base.get("weights_id") if isinstance(base, dict) else None)
    rows = registry.db.execute("select name from base where weights_id = ? order by id", [str(weights_id)])
    for (name,) in rows:
        yield Match("made from base", name, str(weights_id), where, CLAIMED)
    run = record.get("id")
    if isinstance(run, str) and registry.db.execute("select 1 from run where id = ?", [run]).fetchone():
        yield Match("made by run", run, "", where, CLAIMED)


def _claimed_versions(registry: Registry, digest: str, named: str, where: str) -> Iterator[Match]:
    versions = registry.adapters.by_digest(digest)
    for version in versions:
        yield Match("made from version", version.reference, digest, where, CLAIMED)
    if not versions:
        yield Match("made from version", named, digest, f"{where}; no such version is here", CLAIMED)


def short_texts(record: Mapping[str, Any]) -> Inside:
    """What a record says of names and ids, for people to read."""
    return {key: value for key, value in record.items() if isinstance(value, str) and len(value) < 200}


def sha256_of(path: Path) -> str | None:
    return f"sha256:{file_sha256(path)}" if path.is_file() else None
