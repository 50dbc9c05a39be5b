"""A registry of as many versions as one likes: sound rows written straight into its tables. Knows no command.

Every row is what a push would have written: digests fit their files, the history is one chain, every blob is there. Only
the bytes are not: the weights of all versions are names of a few small files, so `fsck` without `--read-data` finds nothing
wrong, and with it everything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from adreg.audit.basecard import BaseCard
from adreg.formats.bases.fingerprint import BaseIds
from adreg.registry.commit import Draft, version_row
from adreg.registry.manifest import FileEntry
from adreg.registry.registry import Registry
from adreg.registry.store.chain import COLUMNS, chained
from adreg.registry.store.database import now, transaction
from adreg.settings import Settings

VERSIONS_EACH = 10
BATCH = 20_000  # one file gets so many names at most; ext4 allows 65,000
TEXTS = "name, description, notes, tags"
PATHS = ("adapter_config.json", "adapter_model.safetensors")
HIDDEN, RANK = 64, 8
MODULE = "model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 16, "bias": "none", "target_modules": ["q_proj"],
}  # fmt: skip
SUMMARY = {
    "family": "lora", "rank": RANK, "alpha": 16, "rslora": False, "targets": ["q_proj"], "modules": 1,
    "parameters": 2 * HIDDEN * RANK, "dtype": "F32", "base_claim": None, "evidence": "recorded", "tensors": "b3:" + "5" * 64,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How much there is; every adapter has `VERSIONS_EACH` versions, and belongs to one of the bases."""

    versions: int
    bases: int

    @property
    def adapters(self) -> int:
        return self.versions // VERSIONS_EACH


def adapter_name(index: int) -> str:
    return f"team-{index % 50:02}/voice-{index:06}"


def base_name(index: int) -> str:
    return f"base-{index:03}"


def write_adapter(folder: Path, seed: int) -> Path:
    """A small adapter, as training leaves it, that fits every base here."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(seed)
    prefix = f"base_model.model.{MODULE}"
    shapes = {f"{prefix}.lora_A.weight": (RANK, HIDDEN), f"{prefix}.lora_B.weight": (HIDDEN, RANK)}
    values = {name: dice.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    (folder / "adapter_model.safetensors").write_bytes(save(values, {"format": "pt"}))
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def fill(home: Path, shape: Shape) -> None:
    """Write the registry in `home`, in transactions of `BATCH` versions, and seal it at the end."""
    registry = Registry(Settings(home))
    db = registry.db
    db.execute("pragma cache_size=-500000")  # digests come in no order: their indexes are written all over
    sample = write_adapter(home / "sample", 0)
    weights, config = sample / "adapter_model.safetensors", sample / "adapter_config.json"
    with transaction(db):
        told = registry.blobs.put(config)
        db.execute("insert into blob (digest, size, created_at) values (?, ?, ?)", [told.digest, told.size, now()])
        db.conn.executemany(*_inserted("base", [_base_row(index) for index in range(shape.bases)]))
        db.conn.executemany(*_inserted("adapter", [_adapter_row(index) for index in range(shape.adapters)]))
        db.execute(f"insert into search (rowid, {TEXTS}) select id, name, description, '', '' from adapter")
    hashes = ""
    for start in range(0, shape.versions, BATCH):
        batch = range(start, min(start + BATCH, shape.versions))
        rows = [_version(serial, shape, FileEntry(told.digest, told.size), weights.stat().st_size) for serial in batch]
        db.execute("begin immediate")
        hashes = _write(registry, rows, hashes)
        db.execute("commit")
        _link(registry, weights, [row[1].digest for row in rows])
    with transaction(db):
        newest = "select adapter_id, 'prod', id, created_at from version where number = ?"
        db.execute(f"insert into alias (adapter_id, name, version_id, updated_at) {newest}", [VERSIONS_EACH])


Row = tuple[dict[str, object], FileEntry, FileEntry]


def _version(serial: int, shape: Shape, config: FileEntry, size: int) -> Row:
    adapter, number = serial // VERSIONS_EACH, serial % VERSIONS_EACH + 1
    weights = FileEntry(f"sha256:{hashlib.sha256(str(serial).encode()).hexdigest()}", size)
    files = dict(zip(PATHS, (config, weights), strict=True))
    draft = Draft(adapter_name(adapter), None, files, SUMMARY, _ids(adapter % shape.bases), None)
    return {"id": serial + 1, **version_row(adapter + 1, number, draft)}, weights, config


def _write(registry: Registry, rows: list[Row], last: str) -> str:
    """The rows of many versions and their history; the last hash of the chain."""
    conn, moment = registry.db.conn, now()
    conn.executemany(*_inserted("version", [row for row, _, _ in rows]))
    blobs = ((weights.digest, weights.size, moment) for _, weights, _ in rows)
    conn.executemany("insert into blob (digest, size, created_at) values (?, ?, ?)", blobs)
    files = ((row["id"], path, file.digest) for row, *both in rows for path, file in zip(PATHS, reversed(both), strict=True))
    conn.executemany("insert into version_file values (?, ?, ?)", files)
    events = []
    for row, _, _ in rows:
        detail = json.dumps({"actor": "me@here", "version": row["number"], "digest": row["digest"], "origin": "push"})
        content = (moment, row["adapter_id"], "push", detail)
        last = chained(last, content)
        events.append((*content, last))
    conn.executemany(f"insert into event ({COLUMNS}, hash) values (?, ?, ?, ?, ?)", events)
    return last


def _link(registry: Registry, weights: Path, digests: list[str]) -> None:
    """Give one copy of `weights` the place of every blob."""
    copy = weights.with_name(digests[0][7:])
    copy.write_bytes(weights.read_bytes())
    for digest in digests:
        place = registry.blobs.path(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(copy, place)


def _base_row(index: int) -> dict[str, object]:
    ids = _ids(index)
    shapes: dict[str, tuple[int, ...]] = {f"{MODULE}.weight": (HIDDEN, HIDDEN)}
    card = BaseCard(base_name(index), ids, "LlamaForCausalLM", "llama", 135_000_000, "BF16", shapes, (), True)
    told = {"name": card.name, "folder": f"/bases/{card.name}", "origin": "synthetic", **vars(ids)}
    return {**told, "card": json.dumps(card.as_json()), "leaves": "{}", "added_at": now()}


def _adapter_row(index: int) -> dict[str, object]:
    return {"name": adapter_name(index), "created_at": now(), "description": f"speaks as number {index} does"}


@cache
def _ids(index: int) -> BaseIds:
    names = BaseIds.__dataclass_fields__
    return BaseIds(**{name: f"b3:{hashlib.sha256(f'{name} {index}'.encode()).hexdigest()}" for name in names})


def _inserted(table: str, rows: list[dict[str, object]]) -> tuple[str, Iterator[tuple[object, ...]]]:
    marks = ", ".join("?" * len(rows[0]))
    return f"insert into {table} ({', '.join(rows[0])}) values ({marks})", (tuple(row.values()) for row in rows)
