"""Search over names, descriptions, notes and tags, with SQLite's full-text index. Knows words, not its query language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adreg.registry.store.sqlite import Database

NAME, DESCRIPTION, NOTES, TAGS = 10.0, 4.0, 1.0, 6.0
LIMIT = 200
MARK = "…"


@dataclass(frozen=True)
class Hit:
    """An adapter that was found: `where` is a piece of the text that matched."""

    name: str
    description: str
    where: str
    newest: int | None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "newest": self.newest, "description": self.description, "where": self.where}


def search_adapters(db: Database, words: str) -> list[Hit]:
    """The adapters that hold every word (the last may be the start of one), best first: names count most."""
    wanted = match_expression(words)
    if not wanted:
        return []
    query = (
        f"select adapter.name, adapter.description, snippet(search, -1, '', '', '{MARK}', 12) as found, "
        "(select max(number) from version where adapter_id = adapter.id and yanked_at is null) as newest "
        "from search join adapter on adapter.id = search.rowid "
        "where search match ? and deleted_at is null "
        f"order by bm25(search, {NAME}, {DESCRIPTION}, {NOTES}, {TAGS}), adapter.name limit {LIMIT}"
    )
    return [Hit(*row) for row in db.execute(query, [wanted])]


def match_expression(words: str) -> str:
    """`words` as an FTS5 query that means just them: each a quoted string, the last with a prefix star."""
    plain = words.replace("\0", " ").encode(errors="replace").decode()
    quoted = ['"{}"'.format(word.replace('"', '""')) for word in plain.split() if _has_text(word)]
    return " ".join(quoted) + " *" if quoted else ""


def _has_text(word: str) -> bool:
    """Whether the tokenizer finds anything in `word`; one of punctuation alone would be a phrase that nothing matches."""
    return any(character.isalnum() for character in word)
