"""A GGUF file as a base: the same view of tensors, configuration and tokenizer as a checkpoint folder gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.gguf.config import config_of, heads_of
from adreg.formats.gguf.header import is_gguf, read_gguf
from adreg.formats.gguf.names import ROPE_FACTORS, checkpoint_name, rotated_by
from adreg.formats.gguf.tensor import GgufTensor
from adreg.formats.gguf.tokenizer import tokenizer_config, tokenizer_definition
from adreg.formats.quantised.packed import PackedTensor
from adreg.formats.safetensors import SafetensorsFile, TensorView
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.tokenizer import TokenizerFiles, tokenizer_id, vocabulary_id

UNUSED = 5


@dataclass(frozen=True)
class GgufBase(Checkpoint):
    """The file is `folder`. Every tensor is in `packed`, floats too: names and the order of rows differ. No rope factors."""

    fields: dict[str, Any]

    @property
    def container(self) -> str:
        return "gguf"

    @cached_property
    def packed(self) -> dict[str, PackedTensor]:
        return dict(self._packed())

    def _packed(self) -> Iterator[tuple[str, PackedTensor]]:
        kind = str(self.fields.get("general.architecture"))
        for name, view in self.tensors.items():
            if name != ROPE_FACTORS:
                field = rotated_by(kind, name)
                heads = heads_of(self.folder, self.fields, field) if field else 0
                yield checkpoint_name(kind, name), GgufTensor(view, self._checked(view, heads))

    def _checked(self, view: TensorView, heads: int) -> int:
        if len(view.shape) == 1 and view.nbytes < view.count:
            raise FormatError(self.folder, f"has tensor {view.name!r} of one dimension in {view.dtype}", "G-HDR-1")
        if heads and view.shape[0] % (2 * heads):
            raise FormatError(self.folder, f"has {view.shape[0]} rows in {view.name!r} for {heads} heads", "G-KEY-1")
        return heads

    @cached_property
    def front_matter(self) -> JsonObject:
        named = ((key, self.fields.get(f"general.{key}")) for key in ("license", "license_name"))
        return {key: value for key, value in named if isinstance(value, str)}

    @cached_property
    def tokenizer(self) -> TokenizerFiles:
        return GgufTokenizer(self.folder, self.fields)


@dataclass(frozen=True)
class GgufTokenizer(TokenizerFiles):
    """The tokenizer fields of a GGUF file as the files of a folder would say them."""

    fields: dict[str, Any]

    def has(self, name: str) -> bool:
        return False

    def present(self) -> list[Path]:
        return []

    @property
    def path(self) -> Path:
        return self.folder

    @property
    def template_path(self) -> Path:
        return self.folder

    @cached_property
    def token_ids(self) -> tuple[str | None, str | None]:
        """`tok_id` where adreg can rebuild the tokenizer, and `vocab_id` of the tokens that are no padding."""
        tokens, types = (self.fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
        if not isinstance(tokens, list):
            return None, None
        unused = {id_ for id_, type_ in enumerate(types) if type_ == UNUSED} if isinstance(types, list) else set()
        vocabulary = {str(token): id_ for id_, token in enumerate(tokens) if id_ not in unused}
        tok_id = None if self.definition is None else tokenizer_id(self.definition)
        return tok_id, vocabulary_id({"model": {"vocab": vocabulary}})

    @cached_property
    def definition(self) -> JsonObject | None:
        """tokenizer.json, or None where adreg cannot rebuild it."""
        try:
            return tokenizer_definition(self.fields)
        except UnsupportedError:
            return None

    @cached_property
    def config(self) -> JsonObject:
        return tokenizer_config(self.fields) if "tokenizer.ggml.tokens" in self.fields else {}

    @cached_property
    def chat_template(self) -> str | None:
        template = self.fields.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None


def open_base(path: Path) -> Checkpoint:
    """The base in a folder, or in a GGUF file. Raises `NotFoundError` or `FormatError`; reads headers only."""
    return open_gguf_base(path) if is_gguf(path) else open_checkpoint(path)


def open_gguf_base(path: Path) -> GgufBase:
    """The base in the file at `path`. Raises `FormatError` or `UnsupportedError`; reads the header only."""
    file = read_gguf(path)
    if file.fields.get("general.type", "model") != "model":
        raise FormatError(path, f"is a GGUF {file.fields['general.type']}, not a model", "G-KEY-1")
    if file.fields.get("split.count", 0) != 0:
        raise UnsupportedError(f"{path}, one part of a split GGUF,", "join the parts with llama-gguf-split --merge")
    shard = SafetensorsFile(path, file.tensors, {}, file.status)
    return GgufBase(path, config_of(path, file.fields, file.tensors), (shard,), file.fields)
