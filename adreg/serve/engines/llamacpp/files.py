"""GGUF files that are made when they are first needed and kept: a base, and a LoRA for each adapter. Knows no process."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adreg.audit.gguf import inspect_gguf, judge_gguf, tensors_of
from adreg.audit.policy import require
from adreg.errors import ConflictError, UnsupportedError
from adreg.formats.atomic import atomic_file, disk_errors
from adreg.formats.digests import file_sha256
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.serve.models.verified import VerifiedAdapters

INSTEAD = "adreg serve with its own engine takes it, or merge it: adreg merge {} --to gguf"
Make = Callable[[Path], None]


@dataclass(frozen=True)
class LoraFile:
    """An adapter as llama.cpp loads it; `own_template` where it was trained with another chat template than the base's."""

    digest: str
    reference: str
    path: Path
    own_template: bool


@dataclass(frozen=True)
class LoraFiles:
    """The adapters of one base as GGUF files in `folder`; `export` writes the one of a digest.

    `model` is the GGUF file that they are loaded with, `tokenizer` the one that it holds.
    """

    folder: Path
    model: Path
    tokenizer: TokenizerFiles
    adapters: VerifiedAdapters
    export: Callable[[str, Path], None]

    def get(self, digest: str) -> LoraFile:
        """The file of the adapter `digest`: its own files hashed, the audit asked, exported unless it was, and looked at
        as llama.cpp's loader does.

        Raises `ConflictError` by name for what llama.cpp cannot give to one adapter, and what `VerifiedAdapters.open` raises.
        """
        reference = self.adapters.offer.by_digest(digest).reference
        try:
            self.adapters.open(digest)
            own = self.adapters.own_tokenizer(digest)
            if own is not None and not self._same_tokens(own):
                raise UnsupportedError("a tokenizer of its own")
            path = kept(self.folder / f"{digest.rpartition(':')[2]}.gguf", partial(self.export, digest))
        except UnsupportedError as error:
            why = f"{reference} cannot be served by llama.cpp: {error}"
            raise ConflictError(why, error.instead or INSTEAD.format(reference)) from error
        require("serve", reference, judge_gguf(inspect_gguf(path, tensors_of(self.model), target="llama.cpp")))
        return LoraFile(digest, reference, path, own is not None and own.tpl_id not in (None, self.tokenizer.tpl_id))

    def _same_tokens(self, own: TokenizerFiles) -> bool:
        """A GGUF file does not hold all that a tokenizer.json says: there, the same tokens must do."""
        base = self.tokenizer
        return own.tok_id in (None, base.tok_id) or (base.has("tokenizer.json") is False and own.vocab_id == base.vocab_id)


def kept(path: Path, make: Make) -> Path:
    """`path`, written by `make` unless it is there, byte for byte as it was made. Several servers may ask at once.

    Raises `StorageError`, and what `make` raises.
    """
    seal = path.with_suffix(".sha256")
    with _alone(path.with_suffix(".lock")):
        if not (path.is_file() and seal.is_file() and seal.read_text(encoding="utf-8") == file_sha256(path)):
            for stale in (seal, path, path.with_suffix(".Modelfile")):
                stale.unlink(missing_ok=True)
            make(path)
            with atomic_file(seal) as partial_seal:
                partial_seal.write_text(file_sha256(path), encoding="utf-8")
    return path


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Within: no other process, and no other thread, is in a block for the same file."""
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w", encoding="utf-8")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
