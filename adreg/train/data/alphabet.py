"""Which characters of a file its tokenizer cannot say, because its vocabulary lacks their bytes. Knows no rows' meaning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from adreg.train.data.rows import Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHOWN = 5
BROKEN = "\ufffd"


def unsayable(tokenizer: Tokenizer, rows: Iterable[Row], unknown: str | None) -> list[str]:
    """The distinct characters of `rows`, sorted, that become no token, the token `unknown`, or one that is no text."""
    found: set[str] = set()
    for row in rows:
        found.update(*[turn.content for turn in row.turns])
    special = None if unknown is None else tokenizer.token_to_id(unknown)
    return [character for character in sorted(found - {BROKEN}) if not _says(tokenizer, character, special)]


def named(characters: list[str]) -> str:
    """The first few of `characters` by their numbers."""
    shown = ", ".join(f"U+{ord(character):04X}" for character in characters[:SHOWN])
    return shown + (", …" if len(characters) > SHOWN else "")


def _says(tokenizer: Tokenizer, character: str, special: int | None) -> bool:
    if character.isspace():
        return True
    ids = tokenizer.encode(character, add_special_tokens=False).ids
    return bool(ids) and special not in ids and BROKEN not in tokenizer.decode(ids)
