"""tokenizer.model, the file of a SentencePiece tokenizer, read strictly. Knows its pieces and settings, tokenises nothing.

Source: google/sentencepiece src/sentencepiece_model.proto, in protobuf's wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

from adreg.errors import FormatError

SIZE_LIMIT = 100_000_000
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PIECE, TRAINER, NORMALIZER = 1, 2, 3
Value: TypeAlias = int | memoryview


class PieceType(IntEnum):
    """What a piece is. The numbers are those of GGUF's token types too."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class ModelType(IntEnum):
    """How a text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class Piece:
    """A token of the vocabulary; the id is its place."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces in order of id, and what is done to a text before it is cut. `charsmap` rewrites characters."""

    pieces: tuple[Piece, ...]
    type: ModelType
    byte_fallback: bool
    charsmap: bool
    dummy_prefix: bool
    remove_extra_whitespaces: bool

    @property
    def settings(self) -> str:
        """All but the pieces, for messages."""
        does = ("byte_fallback", "charsmap", "remove_extra_whitespaces")
        return f"of type {self.type.name} with { ({name: getattr(self, name) for name in does}) }"


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read the file at `path`. Raises `FormatError` for anything that is no such model."""
    with path.open("rb") as file:
        raw = file.read(SIZE_LIMIT + 1)
    if len(raw) > SIZE_LIMIT:
        raise _error(path, f"is longer than {SIZE_LIMIT} bytes")
    pieces: list[Piece] = []
    settings: dict[int, dict[int, Value]] = {TRAINER: {}, NORMALIZER: {}}
    try:
        for number, value in _fields(memoryview(raw)):
            if number == PIECE:
                pieces.append(_piece(dict(_fields(_bytes(value)))))
            elif number in settings:
                settings[number].update(_fields(_bytes(value)))
        return _model(tuple(pieces), settings[TRAINER], settings[NORMALIZER])
    except (ValueError, struct.error) as error:
        raise _error(path, f"is no SentencePiece model: {error}") from error


def _model(pieces: tuple[Piece, ...], trainer: dict[int, Value], normalizer: dict[int, Value]) -> SentencePieceModel:
    if not pieces:
        raise ValueError("it has no pieces")
    return SentencePieceModel(
        pieces,
        type=ModelType(_int(trainer.get(3, ModelType.UNIGRAM))),
        byte_fallback=bool(trainer.get(35, False)),
        charsmap=bool(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, True)),
        remove_extra_whitespaces=bool(normalizer.get(4, True)),
    )


def _piece(fields: dict[int, Value]) -> Piece:
    score = struct.unpack("<f", _bytes(fields[2]))[0] if 2 in fields else 0.0
    return Piece(str(_bytes(fields.get(1, memoryview(b""))), "utf-8"), score, PieceType(_int(fields.get(3, PieceType.NORMAL))))


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The number and the value of every field: an int, or the bytes of all that is not a varint."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"a field of the wire type {wire}")
        if size > len(message) - at:
            raise ValueError("it is cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut short")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number belongs")
    return value


def _error(path: Path, why: str) -> FormatError:
    return FormatError(path, why, "T-TOK-0")
