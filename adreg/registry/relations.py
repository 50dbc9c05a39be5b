"""Which registered base is a quantised or re-typed copy of which: judged from their sketches, kept as rows.

Knows how to find candidates and to write down what `audit.attribution` says; the judgement is not made here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from adreg.audit.attribution import QUANT_OF, UNDECIDED, attribute
from adreg.audit.basecard import BaseCard, Relative
from adreg.formats.bases.sketch import Sketch, read_sketch
from adreg.formats.quantised.packed import Quantisation
from adreg.registry.store.blobs import BlobStore
from adreg.registry.store.database import now
from adreg.registry.store.leases import Lease
from adreg.registry.store.sqlite import Database

GGUF = "gguf"
COLUMNS = ("id", "name", "arch_id", "weights_id", "values_id", "cfg_id", "sketch")


@dataclass(frozen=True)
class Known:
    """What of a base decides its relations. `id` is None for one that is not registered."""

    id: int | None
    name: str
    arch_id: str
    weights_id: str
    values_id: str
    cfg_id: str
    sketch: str | bytes | None
    dtype: str
    container: str
    quantisation: Quantisation | None

    @property
    def rank(self) -> int:
        """How far from an original: float32, bfloat16, float16, then quantised and GGUF."""
        if self.quantisation is not None or self.container == GGUF:
            return 3
        return {"F32": 0, "F16": 2}.get(self.dtype, 1)


@dataclass(frozen=True)
class Relation:
    """`child` was found to be made from `parent`."""

    child: Known
    parent: Known
    verdict: str
    score: float
    evidence: str


@dataclass(frozen=True)
class Relations:
    """The relations between the bases of one registry."""

    db: Database
    blobs: BlobStore

    def keep(self, sketch: bytes) -> str:
        """Store a sketch as a blob, under a lease of the caller's. Its digest."""
        digest = f"sha256:{hashlib.sha256(sketch).hexdigest()}"
        with self.blobs.temporary() as temporary:
            with temporary.open("xb") as file:
                file.write(sketch)
                file.flush()
                os.fsync(file.fileno())
            self.blobs.publish(temporary, digest)
        self.blobs.settle([digest])
        return digest

    def name_blob(self, digest: str, size: int, held: Lease) -> None:
        """Write the blob's row and end the lease. Callers hold the transaction of the row that names it."""
        query = "insert into blob (digest, size, created_at) values (?, ?, ?) on conflict (digest) do update set state = 'ok'"
        self.db.execute(query, [digest, size, now()])
        held.release()

    def update(self, weights_id: str) -> None:
        """Judge anew every copy that the base with `weights_id` may be, or may be the original of.

        Callers hold the transaction that the base came in by: a base is never there without its relations.
        """
        pool = self._pool(weights_id)
        new = [one for one in pool if one.weights_id == weights_id]
        copies = [one for one in pool if one in new or any(one.rank > other.rank for other in new)]
        for copy in copies:
            self.db.execute("delete from base_relation where child_id = ?", [copy.id])
            for one in self._judge(copy, pool):
                row = [copy.id, one.parent.id, one.verdict, one.score, one.evidence]
                self.db.execute("insert into base_relation values (?, ?, ?, ?, ?)", row)

    def of(self, id_: int) -> tuple[Relative, ...]:
        """The relatives of a registered base, originals first."""
        query = (
            "select base.name, base.weights_id, verdict, score, evidence, parent_id = base.id, base.cfg_id, own.cfg_id, "
            "json_extract(base.card, '$.container') is 'gguf' or json_extract(own.card, '$.container') is 'gguf' "
            "from base_relation join base on base.id in (child_id, parent_id) and base.id != ?1 "
            "join base own on own.id = ?1 where ?1 in (child_id, parent_id) order by parent_id = base.id desc, base.name"
        )
        return tuple(
            Relative(name, weights_id, verdict, score, evidence, bool(original), bool(gguf) or theirs == ours)
            for name, weights_id, verdict, score, evidence, original, theirs, ours, gguf in self.db.execute(query, [id_])
        )

    def guess(self, card: BaseCard, sketch: bytes) -> tuple[Relative, ...]:
        """The relatives that a base which is not registered would have."""
        ids = card.ids
        own = Known(None, card.name, ids.arch_id, ids.weights_id, ids.values_id, ids.cfg_id, sketch, card.dtype,
                    card.container, card.quantisation)  # fmt: skip
        pool = [own, *(one for one in self._rows(ids.arch_id) if one.weights_id != ids.weights_id)]
        found = [relation for copy in pool for relation in self._judge(copy, pool) if own in (relation.child, relation.parent)]
        return tuple(_relative(relation, own) for relation in found)

    def _pool(self, weights_id: str) -> list[Known]:
        row = self.db.execute("select arch_id from base where weights_id = ?", [weights_id]).fetchone()
        return list(self._rows(row[0])) if row else []

    def _rows(self, arch_id: str) -> Iterator[Known]:
        wanted = "json_extract(card, '$.dtype'), json_extract(card, '$.container'), json_extract(card, '$.quantisation')"
        rows = self.db.execute(f"select {', '.join(COLUMNS)}, {wanted} from base where arch_id = ? order by id", [arch_id])
        for *plain, dtype, container, quantisation in rows.fetchall():
            said: dict[str, Any] | None = json.loads(quantisation) if quantisation else None
            quantised = Quantisation(**said) if said else None
            own = dict(zip(COLUMNS, plain, strict=True))
            yield Known(**own, dtype=dtype, container=container or "safetensors", quantisation=quantised)

    def _judge(self, copy: Known, pool: Iterable[Known]) -> Iterator[Relation]:
        """The relations of `copy` to the bases in `pool` that it may have been made from."""
        others = [one for one in pool if one.weights_id != copy.weights_id and one.rank <= copy.rank]
        same = [one for one in others if one.values_id == copy.values_id and (one.rank < copy.rank or _older(one, copy))]
        if same:
            yield from (Relation(copy, one, QUANT_OF, 1.0, "values") for one in same)
            return
        nearer = [one for one in others if one.rank < copy.rank and one.sketch]
        if copy.sketch is None or not nearer:
            return
        # several records of the same values are one candidate
        values = {one.values_id: one for one in reversed(nearer)}
        sketches = {values_id: self._sketch(one) for values_id, one in values.items()}
        found = attribute(self._sketch(copy), copy.quantisation, sketches)
        if found.verdict in (QUANT_OF, UNDECIDED):
            parents = [one for one in nearer if one.values_id == found.parent]
            yield from (Relation(copy, one, found.verdict, found.score, found.evidence) for one in parents)

    def _sketch(self, one: Known) -> Sketch:
        if isinstance(one.sketch, bytes):
            return read_sketch(one.sketch, one.name)
        with self.blobs.open(str(one.sketch)) as file:
            return read_sketch(file.read(), f"the sketch of base {one.name}")


def _older(one: Known, copy: Known) -> bool:
    """Of two that are alike in everything, the one that was registered first counts as the original."""
    return one.rank == copy.rank and one.id is not None and (copy.id is None or one.id < copy.id)


def _relative(relation: Relation, own: Known) -> Relative:
    original = relation.child is own
    other = relation.parent if original else relation.child
    comparable = GGUF in (own.container, other.container) or own.cfg_id == other.cfg_id
    return Relative(other.name, other.weights_id, relation.verdict, relation.score, relation.evidence, original, comparable)
