"""SentencePiece tokenizers as Llama 2, Phi-3 and Gemma publish them, from the vocabularies that llama.cpp's sources carry.

`ADREG_LORA_ORACLE` names the folder with their `models`; the default is `.venv/lora-oracle`, where the Makefile puts them.
"""

from __future__ import annotations

import functools
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("ADREG_LORA_ORACLE") or Path(__file__).parents[2] / ".venv" / "lora-oracle") / "models"
needs_vocabularies = pytest.mark.skipif(
    not (FOLDER / "ggml-vocab-llama-spm.gguf").is_file(),
    reason=f"llama.cpp's vocabularies are not in {FOLDER}; `make unit` puts them there",
)
PREPEND, ESCAPE = {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
LLAMA2_NORMALIZER = {"type": "Sequence", "normalizers": [PREPEND, ESCAPE]}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TURNS = ("<start_of_turn>", "<end_of_turn>")
TEXTS = ("\n\n", "\n\n\n", "<table>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, scores and types, as a GGUF file has them."""

    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]

    @functools.cached_property
    def merges(self) -> list[list[str]]:
        """All pairs that make a token, as transformers derives them from a SentencePiece model."""
        ids = {token: id_ for id_, token in enumerate(self.tokens)}
        products = sorted((id_ for id_, kind in enumerate(self.types) if kind == 1), key=lambda id_: -self.scores[id_])
        found = []
        for token in map(self.tokens.__getitem__, products):
            pairs = [[token[:at], token[at:]] for at in range(1, len(token)) if {token[:at], token[at:]} <= ids.keys()]
            found += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        return found


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    """The one in `ggml-vocab-<name>.gguf`."""
    from gguf import GGUFReader

    reader = GGUFReader(FOLDER / f"ggml-vocab-{name}.gguf")
    keys = ("tokens", "scores", "token_type")
    return Vocabulary(*(tuple(reader.fields[f"tokenizer.ggml.{key}"].contents()) for key in keys))


def added(id_: int, content: str, **flags: bool) -> dict[str, Any]:
    return {"id": id_, "content": content, **FLAGS, **flags}


def definition(tokens: list[dict[str, Any]], normalizer: Any, pre_tokenizer: Any = None) -> dict[str, Any]:
    """A tokenizer.json of Llama 2's vocabulary with the added `tokens`."""
    llama = vocabulary("llama-spm")
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    one, other = ({"Sequence": {"id": id_, "type_id": 0}} for id_ in "AB")
    specials = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    vocab = {token: id_ for id_, token in enumerate(llama.tokens)}
    vocab |= {token["content"]: token["id"] for token in tokens if token["id"] >= len(llama.tokens)}
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, one], "pair": [bos, one, bos, other], "special_tokens": specials,
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {**model, "vocab": vocab, "merges": list(llama.merges)},
    }  # fmt: skip


def llama2(**changes: Any) -> dict[str, Any]:
    return definition([added(id_, text) for id_, text in enumerate(("<unk>", "<s>", "</s>"))], LLAMA2_NORMALIZER) | changes


def phi3() -> dict[str, Any]:
    """Most of Phi-3's added tokens swallow the white space that follows them."""
    names, keep = vocabulary("phi-3").tokens, ("<unk>", "<s>", "<|endoftext|>")
    tokens = [
        added(id_, names[id_], rstrip=names[id_] not in keep, special=id_ != 2) for id_ in (0, 1, 2, *range(32000, 32011))
    ]
    return definition(tokens, LLAMA2_NORMALIZER)


def gemma() -> dict[str, Any]:
    """Gemma's steps and kinds of added tokens over Llama 2's vocabulary: turns, line breaks, runs of spaces, markup."""
    llama = vocabulary("llama-spm").tokens
    tokens = [added(id_, text) for id_, text in enumerate(("<unk>", "<s>", "</s>"))]
    tokens += [added(id_, text, special=False) for id_, text in enumerate(llama) if set(text) == {"▁"} and len(text) > 1]
    tokens += [added(32000 + i, text, special=text in TURNS) for i, text in enumerate((*TURNS, *TEXTS))]
    found = definition(tokens, ESCAPE, GEMMA_SPLIT)
    # Gemma's runs of spaces come before all words
    found["model"]["merges"].sort(key=lambda merge: set("".join(merge)) != {"▁"})
    return found


def write_tokenizer_files(folder: Path, found: dict[str, Any], model: bool = False, **config: Any) -> Path:
    """tokenizer.json, tokenizer_config.json, and with `model` the tokenizer.model that they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "add_bos_token": True, "add_eos_token": False,
    }  # fmt: skip
    if model:
        settings["added_tokens_decoder"] = {str(token["id"]): token for token in found["added_tokens"]}
        (folder / "tokenizer.model").write_bytes(model_file(vocabulary("llama-spm")))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | config))
    return folder


def model_file(found: Vocabulary, kind: int = 2, byte_fallback: bool = True, normalizer: bytes = b"\x20\x00") -> bytes:
    """A tokenizer.model in protobuf's wire format: pieces, the trainer's settings, the normaliser's."""
    pieces = zip(found.tokens, found.scores, found.types, strict=True)
    written = [
        _bytes(1, _bytes(1, text.encode()) + struct.pack("<Bf", 21, score) + bytes((24, type_)))
        for text, score, type_ in pieces
    ]
    # field 3 is the kind of model, field 35 whether bytes stand in for unknown characters
    trainer = bytes((24, kind)) + _varint(35 << 3) + bytes((byte_fallback,))
    return b"".join(written) + _bytes(2, trainer) + _bytes(3, normalizer)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    return bytes((value,)) if value < 128 else bytes((value & 127 | 128,)) + _varint(value >> 7)
