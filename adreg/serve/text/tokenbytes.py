"""The bytes that each token stands for, even where they are only part of a character. Knows how vocabularies write bytes."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"


class TokenBytes:
    """Bytes of the tokens of `backend`, by their ids."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._byte_level = "ByteLevel" in repr(backend.decoder)
        added = backend.get_added_tokens_decoder().items()
        self._literal = {id_: token.content.encode() for id_, token in added if token.special or self._byte_level}

    def __getitem__(self, token: int) -> bytes:
        """Empty for an id that is no token, as some models have behind their vocabulary."""
        if token in self._literal:
            return self._literal[token]
        text = self._backend.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return bytes(byte_of(character) for character in text)
        if byte := BYTE.fullmatch(text):
            return bytes.fromhex(byte[1])
        return text.replace(SPACE, " ").encode()


def byte_of(character: str) -> int:
    """The byte that GPT-2's vocabulary writes as `character`."""
    return _bytes_by_character()[character]


@cache
def _bytes_by_character() -> dict[str, int]:
    """Printable Latin-1 stands for itself; the other bytes, in order, are the characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
