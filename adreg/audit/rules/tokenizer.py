"""T: the tokenizer and the chat template."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject


@rule(
    "T-TOK-1",
    "another tokenizer than at training",
    Severity.ERR,
    Cost.BASE,
    why="the same text becomes other tokens",
    fix="use the tokenizer files of the training",
)
def tokenizer_changed(subject: Subject) -> Iterator[Seen]:
    now, then, name = subject.card.ids, subject.trained_on, subject.card.name
    if then is None or not then.tok_id or now.tok_id == then.tok_id:
        return
    # a GGUF file has the tokens, but not the whole tokenizer
    told_by_tokens = subject.card.container == "gguf" and then.vocab_id is not None and now.vocab_id == then.vocab_id
    if not told_by_tokens:
        yield Seen(f"{name} has another tokenizer than at training", name, seen=now.tok_id, expected=then.tok_id)


@rule(
    "T-TPL-1",
    "another chat template than at training",
    Severity.WARN,
    Cost.BASE,
    why="the adapter sees prompts it never learned",
    fix="use the chat template of the training",
)
def template_changed(subject: Subject) -> Iterator[Seen]:
    now, then, name = subject.card.ids, subject.trained_on, subject.card.name
    if then is not None and then.tpl_id and now.tpl_id != then.tpl_id:
        yield Seen(f"{name} has another chat template than at training", name, seen=now.tpl_id, expected=then.tpl_id)
