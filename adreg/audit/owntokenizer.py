"""The tokenizer that an adapter brings along, read as far as it can be: whatever is wrong with it becomes a problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adreg.errors import FormatError
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.templates import TemplateFacts, template_facts
from adreg.formats.text.tokenizer import TokenizerFiles, token_count, tokenizer_id, vocabulary_id


@dataclass(frozen=True)
class OwnTokenizer:
    """`definition` is tokenizer.json where it is one, `count` one more than its largest id, `special` the texts of the
    special tokens by role, `problems` what is no tokenizer or no template."""

    definition: JsonObject | None = None
    count: int = 0
    special: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    template_id: str | None = None
    problems: tuple[FormatError, ...] = ()

    @cached_property
    def added(self) -> dict[int, str]:
        """The added tokens by id."""
        entries = (self.definition or {}).get("added_tokens") or []
        return {entry["id"]: entry["content"] for entry in entries}

    @cached_property
    def template_facts(self) -> TemplateFacts | None:
        """What the chat template holds and does, or None without one; asks a process of its own."""
        return None if self.template is None else template_facts(self.template, tuple(sorted(self.special.items())))

    def ids_below(self, count: int) -> tuple[str, str]:
        """`tok_id` and `vocab_id` without the added tokens from `count` on. Needs a definition."""
        kept = [entry for entry in (self.definition or {}).get("added_tokens") or [] if entry["id"] < count]
        shortened: dict[str, Any] = {**(self.definition or {}), "added_tokens": kept}
        return tokenizer_id(shortened), vocabulary_id(shortened)


def read_own_tokenizer(files: TokenizerFiles | None) -> OwnTokenizer:
    """Read `files`; None is an adapter without any."""
    if files is None:
        return OwnTokenizer()
    problems: list[FormatError] = []
    definition = special = template = template_id = None
    try:
        if files.token_ids is not None:
            definition = files.definition
    except FormatError as error:
        problems.append(error)
    try:
        special = files.special_tokens
        template, template_id = files.chat_template, files.tpl_id
    except FormatError as error:
        problems.append(error)
    count = token_count(definition) if definition else 0
    return OwnTokenizer(definition, count, special or {}, template, template_id, tuple(problems))
