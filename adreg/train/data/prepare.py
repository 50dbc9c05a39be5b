"""From training files to examples for training and for the held-out loss, with a report on every file. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adreg.errors import UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.config import DataSettings, Source
from adreg.train.data.cache import TokenCache
from adreg.train.data.files import file_bytes
from adreg.train.data.loader import Loaded, Loader
from adreg.train.data.report import DataReport, dropped_in_words
from adreg.train.data.sequences import Rows, split, weighted


@dataclass(frozen=True)
class Prepared:
    """Encoded rows, `Example`s or `Pair`s, and the reports of the files they come from.

    `tokenizer` are the base's files with the chat template that was used, which the adapter carries on; `template` is what
    it is called.
    """

    train: Sequence[Any]
    held_out: Sequence[Any]
    reports: tuple[DataReport, ...]
    tokenizer: TokenizerFiles
    template: str


def prepare(
    base: Checkpoint, settings: DataSettings, seed: int, objective: str = "sft", cache: TokenCache | None = None
) -> Prepared:
    """Read, encode, split and weigh all files of `settings`; `train` and `held_out` are views of mapped files.

    Raises `UsageError` when nothing is left to train on, `DataError` for the first row that is wrong.
    """
    if not settings.train:
        raise UsageError("there is no training data", "name a file: --data FILE, or data.train")
    held = settings.eval if isinstance(settings.eval, list) else []
    _refuse_leaks(settings.train, held)
    loader = Loader(base, settings, objective, cache)
    train, other = ([loader.load(source) for source in sources] for sources in (settings.train, held))
    rows, held_out = _drawn(train, other, settings, seed, 2 if objective == "dpo" else 1)
    reports = tuple(one.report for one in train + other)
    if not len(rows):
        raise UsageError("no row is left to train on", dropped_in_words(reports))
    tokenizer, template = _template(loader, train + other)
    _refuse_idle(settings, template)
    return Prepared(rows, held_out, reports, tokenizer, template)


def _drawn(
    train: list[Loaded], held: list[Loaded], settings: DataSettings, seed: int, size: int
) -> tuple[Rows[Any], Rows[Any]]:
    """The rows to train on and those held out: a share of the former, or the files that were named for it."""
    files, others = (tuple(one.tokens for one in loaded) for loaded in (train, held))
    counts = [len(file) // size for file in files]
    share = 0.0 if isinstance(settings.eval, list) else settings.eval
    kept, out = split(sum(counts), share, seed)
    rows = Rows[Any](files, weighted(kept, counts, [source.weight for source in settings.train], seed), size)
    if held:
        return rows, Rows[Any](others, np.arange(sum(map(len, others)) // size, dtype=np.int64), size)
    return rows, Rows[Any](files, out, size)


def _template(loader: Loader, loaded: Sequence[Loaded]) -> tuple[TokenizerFiles, str]:
    """The tokenizer with the one template that all files were rendered with. Raises `UsageError` where there are two."""
    names = {one.template: one.report.template for one in loaded if one.template is not None}
    if len(names) > 1:
        raise UsageError(
            f"the files ask for different templates, {' and '.join(sorted(names.values()))}",
            f"choose one for all: {' or '.join(f'--set data.template={name}' for name in sorted(names.values()))}",
        )
    files = loader.base.tokenizer
    for text, name in names.items():
        return files if text == files.chat_template else files.with_template(str(text)), name
    return files, ""


def _refuse_leaks(train: Sequence[Source], held: Sequence[Source]) -> None:
    """Raise `UsageError` where a held-out file is one that is trained on, under whatever name."""
    seen = {_digest(source.path): source.path for source in train} if held else {}
    for source in held:
        if same := seen.get(_digest(source.path)):
            twin = "" if same == source.path else f": it holds the same as {same}"
            why = f"{source.path} is held out and trained on{twin}"
            raise UsageError(why, "hold out a share of the rows with --set data.eval=0.05, or name another file")


def _refuse_idle(settings: DataSettings, template: str) -> None:
    """Raise `UsageError` for settings of conversations where all rows are plain texts."""
    if not template and settings.system is not None:
        raise UsageError("data.system has no place in plain texts", "leave it out, or use rows of questions and answers")
    if not template and settings.template != "auto":
        fix = "leave it out, or map the columns to prompt and answer"
        raise UsageError(f"data.template is {settings.template}, and plain texts take no template", fix)


def _digest(path: Path) -> str:
    return hashlib.sha256(file_bytes(path)).hexdigest()
