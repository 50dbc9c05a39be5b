"""G-TPL: the chat templates inside a GGUF file, against its own vocabulary and against the base's template. They are read
and rendered as an adapter's are (`template.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.gguf import GgufSubject
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.gguf import tokens_of
from adreg.audit.rules.ggufidentity import template_of_base
from adreg.audit.rules.template import (
    MORE_THAN_LAYOUT,
    NO_CHAT,
    POISON,
    SAFE_CHOICE,
    UNRENDERABLE,
    failures,
    suspicions,
)
from adreg.errors import UnsupportedError
from adreg.formats.text.templates import TemplateFacts, template_facts

MAIN = "tokenizer.chat_template"
MARK = re.compile(r"<\|[\w./\-]{1,60}\|>")


@rule(
    "G-TPL-1",
    "a model without a chat template",
    Severity.INFO,
    Cost.HEADER,
    why="engines take a template of their own, which the model may never have seen",
    fix="convert it again beside its chat template, where it is a chat model",
)
def no_template(subject: GgufSubject) -> Iterator[Seen]:
    if tokens_of(subject) and not subject.text(MAIN).strip():
        yield Seen("has no chat template", MAIN)


@rule(
    "G-TPL-2",
    MORE_THAN_LAYOUT,
    Severity.ERR,
    Cost.TOKENIZER,
    why=POISON,
    fix=SAFE_CHOICE,
    varies="warn for one that is only large, and for the base's own",
)
def suspicious_template(subject: GgufSubject) -> Iterator[Seen]:
    for key, text in templates_of(subject).items():
        yield from suspicions(_facts(subject, text), text, key, key == MAIN and _is_the_base_s(subject))


@rule("G-TPL-3", UNRENDERABLE, Severity.ERR, Cost.TOKENIZER, why=NO_CHAT, fix=SAFE_CHOICE)
def failing_template(subject: GgufSubject) -> Iterator[Seen]:
    for key, text in templates_of(subject).items():
        yield from failures(_facts(subject, text), key)


@rule(
    "G-TPL-4",
    "marks in a chat template that the vocabulary does not have as tokens",
    Severity.WARN,
    Cost.HEADER,
    why="they become many plain tokens, which the model has never seen in their place: the template is another model's",
    fix="take the template of the base",
)
def foreign_marks(subject: GgufSubject) -> Iterator[Seen]:
    tokens = frozenset(token for token in tokens_of(subject) if isinstance(token, str))
    for key, text in templates_of(subject).items() if tokens else ():
        foreign = sorted(set(MARK.findall(text)) - tokens)
        if foreign:
            yield Seen(
                f"writes {len(foreign)} marks that are no tokens, such as {foreign[0]}", key, seen=", ".join(foreign[:5])
            )


def templates_of(subject: GgufSubject) -> dict[str, str]:
    """Every chat template by the field that holds it: the main one, and those with a name, such as `tool_use`."""
    named = (key for key in subject.fields if key == MAIN or key.startswith(f"{MAIN}."))
    found = {key: subject.text(key) for key in sorted(named)}
    return {key: text for key, text in found.items() if text.strip()} if subject.is_model else {}


def _facts(subject: GgufSubject, text: str) -> TemplateFacts:
    try:
        special = subject.tokenizer.special_tokens
    except UnsupportedError:  # no list of texts: the rules G-TOK speak of it
        special = {}
    return template_facts(text, tuple(sorted(special.items())))


def _is_the_base_s(subject: GgufSubject) -> bool:
    """Whether the registered base whose id the file carries has this very template."""
    expected = template_of_base(subject)
    return bool(expected) and expected == subject.tokenizer.tpl_id
