"""G: a GGUF file: its header, tensor map, values and tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from adreg.audit.findings import Severity
from adreg.audit.gguf import GgufSubject
from adreg.audit.rule import Cost, Seen, rule
from adreg.formats.dtypes import FLOATS, all_finite
from adreg.formats.gguf.header import TYPES
from adreg.formats.gguf.names import CLASSES
from adreg.formats.gguf.tensors import block_of, names_of
from adreg.formats.safetensors import TensorView

CONVERT_AGAIN = "convert the model again"
COUNTS = ("block_count", "embedding_length", "context_length")
ALWAYS = ("token_embd.weight", "output_norm.weight")
# where the float16 scales lie in a block
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
BLOCK_BYTES = {name: size for name, _, size in TYPES.values()}
EXPONENT = 0x7C00


@rule(
    "G-HDR-1",
    "a GGUF header that breaks the format",
    Severity.BLOCK,
    Cost.HEADER,
    why="what breaks its own format cannot be trusted; readers in C go past its end",
    fix="fetch or convert the file again",
)
def broken_header(subject: GgufSubject) -> Iterator[Seen]:
    if subject.problem is not None:
        yield Seen(subject.problem.why, subject.path.name)


@rule(
    "G-KEY-1",
    "a field that every file needs is missing or cannot be meant",
    Severity.BLOCK,
    Cost.HEADER,
    why="no engine loads it, or it takes a default that was not meant",
    fix=CONVERT_AGAIN,
)
def missing_fields(subject: GgufSubject) -> Iterator[Seen]:
    if subject.file is None:
        return
    if not subject.architecture:
        yield Seen("does not say its architecture", "general.architecture", seen=subject.fields.get("general.architecture"))
    if not (subject.is_model or subject.is_lora):
        kind = subject.fields.get("general.type")
        yield Seen(f"is a GGUF {kind}, neither a model nor an adapter", "general.type", seen=kind, expected="model or adapter")
    for key in (f"{subject.architecture}.{count}" for count in COUNTS) if subject.is_model and subject.architecture else ():
        value = subject.fields.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            yield Seen(f"says {key} = {str(value)[:40]}", key, seen=str(value)[:40], expected="a whole number above 0")


@rule(
    "G-MAP-1",
    "tensors that its architecture does not have, or has and the file lacks",
    Severity.ERR,
    Cost.HEADER,
    why="llama.cpp refuses it, or never reads what it does not know",
    fix=CONVERT_AGAIN,
)
def tensor_map(subject: GgufSubject) -> Iterator[Seen]:
    names = names_of(subject.architecture) if subject.is_model else None
    if names is None:
        return
    for name in subject.tensors:
        if not names.fullmatch(name):
            yield Seen(f"{subject.architecture} has no tensor {name!r}", name)
    if subject.architecture in CLASSES:
        yield from missing_tensors(subject)


def missing_tensors(subject: GgufSubject) -> Iterator[Seen]:
    """What a file whose layers are all alike lacks."""
    for name in ALWAYS:
        if name not in subject.tensors:
            yield Seen(f"has no {name}", name)
    blocks: dict[int, set[str]] = {}
    for name in subject.tensors:
        if name.startswith("blk.") and block_of(name) >= 0:
            blocks.setdefault(block_of(name), set()).add(name.partition(".")[2].partition(".")[2])
    count = subject.fields.get(f"{subject.architecture}.block_count")
    if type(count) is int and sorted(blocks) != list(range(count)) and count < 10_000:
        yield Seen(f"has {len(blocks)} layers and says {count}", "block_count", seen=len(blocks), expected=count)
    every = set().union(*blocks.values())
    for number, found in sorted(blocks.items()):
        for name in sorted(every - found):
            yield Seen(f"layer {number} lacks {name}", f"blk.{number}.{name}")


@rule(
    "G-ARC-1",
    "an architecture that adreg's gguf does not know",
    Severity.WARN,
    Cost.HEADER,
    why="its tensors cannot be held against a map",
    fix="update adreg, or check that the name is right",
)
def unknown_architecture(subject: GgufSubject) -> Iterator[Seen]:
    if subject.file is not None and subject.architecture and names_of(subject.architecture) is None:
        yield Seen(
            f"its architecture {subject.architecture[:60]!r} is unknown", "general.architecture", seen=subject.architecture
        )


@rule(
    "G-NAN-1",
    "NaN or infinity in a tensor, or in the scales of a quantised one",
    Severity.BLOCK,
    Cost.TENSORS,
    why="every answer that passes it is NaN",
    fix="convert it from a sound model again",
)
def not_finite(subject: GgufSubject) -> Iterator[Seen]:
    for name, view in subject.tensors.items():
        if not (all_finite(view.data, view.dtype) if view.dtype in FLOATS else finite_scales(view)):
            yield Seen(f"holds NaN or infinity ({view.dtype})", name)


def finite_scales(view: TensorView) -> bool:
    """Whether the float16 scales of a quantised tensor are finite; True for types whose scales cannot be otherwise."""
    import numpy as np

    blocks = np.frombuffer(view.data, np.uint8).reshape(-1, BLOCK_BYTES[view.dtype])
    for offset in SCALES.get(view.dtype, ()):
        scales = np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.uint16)
        if bool(((scales & EXPONENT) == EXPONENT).any()):
            return False
    return True


def tokens_of(subject: GgufSubject) -> list[Any]:
    """The vocabulary of a model, empty where it has none."""
    tokens = subject.fields.get("tokenizer.ggml.tokens")
    return tokens if isinstance(tokens, list) and subject.is_model else []


@rule(
    "G-TOK-1",
    "a vocabulary whose parts do not fit each other or the embedding",
    Severity.ERR,
    Cost.HEADER,
    why="a token without a row is read past the embedding's end; one without a type is no special token",
    fix=CONVERT_AGAIN,
)
def vocabulary_parts(subject: GgufSubject) -> Iterator[Seen]:
    tokens, embedding = tokens_of(subject), subject.tensors.get("token_embd.weight")
    if not tokens:
        if subject.is_model:
            yield Seen("has no vocabulary", "tokenizer.ggml.tokens")
        return
    for part in ("token_type", "scores"):
        values = subject.fields.get(f"tokenizer.ggml.{part}")
        if isinstance(values, list) and len(values) != len(tokens):
            message = f"has {len(tokens)} tokens and {len(values)} of {part}"
            yield Seen(message, f"tokenizer.ggml.{part}", seen=len(values), expected=len(tokens))
    if tokens and embedding is not None and embedding.shape[0] != len(tokens):
        message = f"has {len(tokens)} tokens and an embedding of {embedding.shape[0]} rows"
        yield Seen(message, "token_embd.weight", seen=embedding.shape[0], expected=len(tokens))


@rule(
    "G-TOK-2",
    "a special token outside the vocabulary, or no end of text",
    Severity.ERR,
    Cost.HEADER,
    why="generation never ends, or begins with a token that does not exist",
    fix="set the tokens' ids with gguf-set-metadata, or convert the model again",
)
def special_tokens(subject: GgufSubject) -> Iterator[Seen]:
    tokens = tokens_of(subject)
    for key in sorted(key for key in subject.fields if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
        value = subject.fields[key]
        if tokens and (type(value) is not int or not 0 <= value < len(tokens)):
            yield Seen(f"says {key} = {str(value)[:40]}", key, seen=str(value)[:40], expected=f"0 to {len(tokens) - 1}")
    if tokens and "tokenizer.ggml.eos_token_id" not in subject.fields:
        yield Seen("names no token that ends a text", "tokenizer.ggml.eos_token_id")


@rule(
    "G-TOK-3",
    "a byte-level tokenizer that does not say how it splits text",
    Severity.WARN,
    Cost.HEADER,
    why="llama.cpp takes a default, warns that quality will be degraded, and makes other tokens of numbers and words",
    fix="convert it with a converter that knows the tokenizer",
)
def no_pre_tokenizer(subject: GgufSubject) -> Iterator[Seen]:
    if tokens_of(subject) and subject.text("tokenizer.ggml.model") == "gpt2" and not subject.text("tokenizer.ggml.pre"):
        yield Seen("names no pre-tokenizer", "tokenizer.ggml.pre")


def number(value: object) -> float | None:
    """`value` as a finite number, or None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and isinstance(value, int | float) else None
