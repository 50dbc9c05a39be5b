"""One file of rows as examples for one base, by way of the token cache, with its report. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import adreg
from adreg.errors import UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.text.tokenizer import FILES
from adreg.train.config import DataSettings, Source
from adreg.train.data.alphabet import named, unsayable
from adreg.train.data.cache import TokenCache, Tokens, lay
from adreg.train.data.encode import Encoder, Example
from adreg.train.data.files import STDIN, file_bytes, shown_path
from adreg.train.data.lengths import Fitter
from adreg.train.data.report import DataReport, histogram
from adreg.train.data.rows import Row, RowFile, column_map, read_rows

STEP = 20_000
MAKE = 1  # counted up when the same rows and settings would give other tokens


@dataclass(frozen=True)
class Loaded:
    """One file: its examples, its report, and the chat template it was rendered with (None for plain texts)."""

    tokens: Tokens
    report: DataReport
    template: str | None


class Loader:
    """Turns files into examples for one base, by way of the token cache."""

    def __init__(self, base: Checkpoint, settings: DataSettings, objective: str, cache: TokenCache | None = None) -> None:
        self.base, self.objective = base, objective
        if objective == "dpo" and settings.train_on == "all":
            raise UsageError("dpo learns from answers only, and data.train_on is all", "--set data.train_on=completion")
        self.settings = _within_positions(base, settings)
        self.cache = cache or TokenCache()
        self._encoders: dict[bool, Encoder] = {}

    def load(self, source: Source) -> Loaded:
        """The file of `source`, from the cache where it and all that decides its tokens are as they were."""
        content, path = file_bytes(source.path), shown_path(source.path)
        key = self._key(source, content)
        found = self.cache.get(key, path)
        if found is None:
            tokens, told = self._encode(read_rows(source, self.settings, self.objective, content))
            self.cache.put(key, tokens, told)
        else:
            tokens, told = found
        report = {**told["report"], "path": str(path), "weight": source.weight}
        for name in ("ignored", "lengths"):
            report[name] = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in report[name])
        return Loaded(tokens, DataReport(**report), told["template"])

    def encoder(self, raw: bool = False) -> Encoder:
        """The encoder for rows that are `raw`, or not."""
        if raw not in self._encoders:
            settings = self.settings
            self._encoders[raw] = Encoder(self.base.tokenizer, settings.train_on == "all", settings.template, raw)
        return self._encoders[raw]

    def stop_token(self, loaded: Loaded) -> str:
        """The token that ends most examples; empty where there are none."""
        tokens = loaded.tokens
        last = np.bincount(tokens.ids[tokens.starts[1:] - 1])
        return self.encoder().decode([int(last.argmax())]) if len(last) else ""

    def _encode(self, file: RowFile) -> tuple[Tokens, dict[str, Any]]:
        encoder, size = self.encoder(file.form.raw), 2 if file.form.pairs else 1
        fitter, examples = Fitter(encoder, self.settings), list[Example]()
        longest = 0
        for at in range(0, len(file.rows), STEP):
            rows: Sequence[Row] = file.rows[at : at + STEP]
            encoded = encoder.encode(rows)
            longest = max([longest, *(len(example.ids) for example in encoded)])
            for group in fitter.fit(rows, encoded, size):
                examples += group
        tokens = lay(file.path, examples)
        used = len(file.rows) // size - fitter.dropped.total()
        lost = unsayable(encoder.tokenizer, file.rows, encoder.files.special_token("unk_token"))
        notes = {**file.notes, f"kinds of characters lost to the tokenizer ({named(lost)})": len(lost)} if lost else file.notes
        report = replace(_report(file, tokens, fitter, used, longest), notes=notes)
        if file.form.columns.text:
            return tokens, {"report": asdict(report), "template": None}
        alike = not file.rows or encoder.renderer.asks_alike(file.rows[0])
        report = replace(report, template=encoder.template, asked_alike=alike)
        return tokens, {"report": asdict(report), "template": encoder.files.chat_template}

    def _key(self, source: Source, content: bytes) -> str:
        """The hash of all that decides the tokens of a file."""
        settings = self.settings
        template = Path(settings.template).expanduser()
        deciding = {
            "make": [MAKE, adreg.__version__, *DataReport.__dataclass_fields__],
            "data": hashlib.sha256(content).hexdigest(),
            "format": "" if source.path == STDIN else source.path.suffix.lower(),
            "tokenizer": [_hash(self.base.tokenizer.place(name)) for name in FILES],
            "tokens": (self.base.tokenizer.__dict__.get("definition") or {}).get("added_tokens"),
            "template": [settings.template, _hash(template)],
            "map": column_map(source, settings).model_dump(),
            "settings": settings.model_dump(include={"system", "max_tokens", "too_long", "train_on"}),
            "objective": self.objective,
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _report(file: RowFile, tokens: Tokens, fitter: Fitter, used: int, longest: int) -> DataReport:
    size = 2 if file.form.pairs else 1
    return DataReport(
        path=str(file.path),
        sha256=file.sha256,
        form="lines" if file.kind == "lines" else file.form.name,
        rows=file.read,
        used=used,
        dropped={**file.dropped, **fitter.dropped},
        duplicates=file.duplicates,
        trained_tokens=int(np.count_nonzero(tokens.labels >= 0)),
        total_tokens=len(tokens.ids),
        longest=longest,
        kind=file.kind,
        mapping=file.form.mapping,
        ignored=file.ignored,
        changed=dict(fitter.changed),
        examples=len(tokens) // size,
        complete=fitter.whole,
        lengths=histogram(tokens.lengths),
    )


def _within_positions(base: Checkpoint, settings: DataSettings) -> DataSettings:
    """`settings` with `max_tokens` no larger than the positions the base knows. Raises `UsageError` for a larger one that
    was asked for."""
    config = base.config.get("text_config") or base.config
    known = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(known, int) or settings.max_tokens <= known:
        return settings
    if settings.max_tokens != DataSettings().max_tokens:
        why = f"data.max_tokens is {settings.max_tokens}, and the base knows {known} positions ({base.folder / 'config.json'})"
        raise UsageError(why, f"--set data.max_tokens={known}")
    return settings.model_copy(update={"max_tokens": known})


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
