"""From training files to examples for training and for the held-out loss, with a report on every file. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import DataError, UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.train.config import DataSettings
from adreg.train.encode import Encoder, Example
from adreg.train.rows import read_rows


@dataclass(frozen=True)
class DataReport:
    """What became of a file: of `rows`, `used` are left; `dropped` says why the others are not. Duplicates are used."""

    path: str
    sha256: str
    form: str
    rows: int
    used: int
    dropped: dict[str, int]
    duplicates: int
    trained_tokens: int
    total_tokens: int
    longest: int


@dataclass(frozen=True)
class Prepared:
    """Encoded examples and the reports of the files they come from."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    reports: tuple[DataReport, ...]


def prepare(base: Checkpoint, settings: DataSettings, seed: int) -> Prepared:
    """Read, encode and split all files of `settings`. Raises `UsageError` when nothing is left to train on."""
    if not settings.train:
        raise UsageError("there is no training data", "name a file: data.train")
    encoder, settings = _encoder(base, settings), _capped(base, settings)
    train, reports = _load(encoder, settings.train, settings)
    if isinstance(settings.eval, list):
        held_out, more = _load(encoder, settings.eval, settings)
        reports += more
    else:
        train, held_out = split(train, settings.eval, seed)
    if not train:
        raise UsageError("no row is left to train on", "; ".join(f"{one.path}: {one.dropped}" for one in reports))
    return Prepared(tuple(train), tuple(held_out), tuple(reports))


def check_file(path: Path, base: Checkpoint, settings: DataSettings) -> tuple[DataReport, list[Example]]:
    """The report on one file and its examples, without training on it."""
    return _load_file(_encoder(base, settings), path, _capped(base, settings))


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out `share` of the examples, at least one where there are two, drawn by `seed`; both keep their order."""
    count = min(max(round(len(examples) * share), 1), len(examples) - 1) if share and len(examples) > 1 else 0
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    kept = [example for place, example in enumerate(examples) if place not in chosen]
    return kept, [examples[place] for place in sorted(chosen)]


def _encoder(base: Checkpoint, settings: DataSettings) -> Encoder:
    return Encoder(base.tokenizer, learn_all=settings.train_on == "all")


def _capped(base: Checkpoint, settings: DataSettings) -> DataSettings:
    """`settings` with `max_tokens` no larger than the positions the base knows."""
    positions = base.config.get("max_position_embeddings") or base.config.get("n_positions") or settings.max_tokens
    return settings.model_copy(update={"max_tokens": min(settings.max_tokens, int(positions))})


def _load(encoder: Encoder, paths: Sequence[Path], settings: DataSettings) -> tuple[list[Example], list[DataReport]]:
    loaded = [_load_file(encoder, path, settings) for path in paths]
    return [example for _, examples in loaded for example in examples], [report for report, _ in loaded]


def _load_file(encoder: Encoder, path: Path, settings: DataSettings) -> tuple[DataReport, list[Example]]:
    file = read_rows(path, settings)
    encoded = encoder.encode(file.rows)
    too_long = [example for example in encoded if len(example.ids) > settings.max_tokens]
    if too_long and settings.too_long == "error":
        first = too_long[0]
        raise DataError(first.path, first.line, f"has {len(first.ids)} tokens; the limit is {settings.max_tokens}")
    examples = [example for example in encoded if len(example.ids) <= settings.max_tokens]
    dropped = file.dropped | ({"too long": len(too_long)} if too_long else {})
    report = DataReport(
        path=str(path),
        sha256=file.sha256,
        form=file.form,
        rows=len(file.rows) + sum(file.dropped.values()),
        used=len(examples),
        dropped=dropped,
        duplicates=file.duplicates,
        trained_tokens=sum(example.trained for example in examples),
        total_tokens=sum(len(example.ids) for example in examples),
        longest=max((len(example.ids) for example in encoded), default=0),
    )
    return report, examples
