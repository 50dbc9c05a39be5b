"""T: the chat template, of the base at hand and of the adapter itself. Templates are read and rendered by a process of
their own with little time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.formats.text.templates import RENDERED, TemplateFacts

OWN = "chat_template"
LARGE, LONG, UNBROKEN = 20_000, 4_000, 200
PLAIN = 2  # the first golden conversations are one question, which every template must render
MORE_THAN_LAYOUT = "a chat template that does more than lay out messages"
POISON = "templates run with every prompt: a poisoned one can change the answers to some words only, which no test shows"
SAFE_CHOICE = "read the template; the base's is the safe choice"
UNRENDERABLE = "a chat template that cannot render a plain question"
NO_CHAT = "no chat can be had with it"


@rule(
    "T-TPL-1",
    "another chat template than at training",
    Severity.WARN,
    Cost.BASE,
    why="the adapter sees prompts it never learned",
    fix="use the chat template of the training",
    varies="info where it renders the same texts",
)
def template_changed(subject: Subject) -> Iterator[Seen]:
    now, then, name = subject.card.ids, subject.trained_on, subject.card.name
    if then is not None and then.tpl_id and now.tpl_id != then.tpl_id:
        same = then.tpl_sem is not None and then.tpl_sem == now.tpl_sem
        yield Seen(
            f"{name} has another chat template than at training",
            name,
            seen=now.tpl_id,
            expected=then.tpl_id,
            severity=Severity.INFO if same else None,
        )


@rule(
    "T-TPL-2",
    "a chat template that never asks for an answer",
    Severity.WARN,
    Cost.TOKENIZER,
    why="without `add_generation_prompt` the model may continue the question instead of answering it",
    fix="take the base's template, or end yours with the beginning of an answer",
    varies="info for the base's own: some formats mark the end of the question instead",
)
def no_generation_prompt(subject: Subject) -> Iterator[Seen]:
    template = subject.own_tokenizer.template
    if template is not None and "add_generation_prompt" not in template:
        severity = Severity.INFO if _is_known(subject) else None
        yield Seen("its chat template knows no add_generation_prompt", OWN, severity=severity)


@rule(
    "T-TPL-3",
    MORE_THAN_LAYOUT,
    Severity.ERR,
    Cost.TOKENIZER,
    why=POISON,
    fix=SAFE_CHOICE,
    varies="warn for one that is only large, and for the base's own",
)
def suspicious_template(subject: Subject) -> Iterator[Seen]:
    facts, text = subject.own_tokenizer.template_facts, subject.own_tokenizer.template
    if facts is not None and text is not None:
        yield from suspicions(facts, text, OWN, _is_known(subject))


def suspicions(facts: TemplateFacts, text: str, where: str, known: bool) -> Iterator[Seen]:
    """What the template `text` does besides laying out messages; `known`: it is the base's own, and so only a warning."""
    severity = Severity.WARN if known else None
    for what, found in (
        ("reaches into Python by", facts.inner),
        ("holds the address", facts.addresses),
        ("looks into messages for", facts.tests),
    ):
        if found:
            yield Seen(f"{what} {found[0][:80]!r}", where, seen=found[0][:80], severity=severity)
    if facts.longest > LONG or facts.unbroken > UNBROKEN:
        message = f"holds a text of {facts.longest} characters, {facts.unbroken} of them without a space"
        yield Seen(message, where, facts.longest, f"at most {LONG}", severity=severity)
    if len(text) > LARGE and not facts.broken:
        yield Seen("is very large", where, len(text), f"at most {LARGE}", severity=Severity.WARN)


@rule(
    "T-TPL-4",
    UNRENDERABLE,
    Severity.ERR,
    Cost.TOKENIZER,
    why=NO_CHAT,
    fix="take the base's template",
)
def failing_template(subject: Subject) -> Iterator[Seen]:
    facts = subject.own_tokenizer.template_facts
    if facts is not None:
        yield from failures(facts, OWN)


def failures(facts: TemplateFacts, where: str) -> Iterator[Seen]:
    """Why a template cannot render one question."""
    plain = facts.outcomes[:PLAIN]
    failed = [outcome for outcome in plain if outcome != RENDERED]
    if facts.broken:
        yield Seen(f"is no Jinja: {facts.broken}", where)
    elif failed:
        yield Seen(f"refuses a plain question: {failed[0]}", where, seen=failed[0], expected=RENDERED)
    elif len(plain) < PLAIN:
        yield Seen("uses up its time or memory on a plain question", where, seen="killed", expected=RENDERED)


def _is_known(subject: Subject) -> bool:
    """Whether it is the base's own template, at hand or of the training."""
    ids = [ids.tpl_id for ids in (subject.trained_on, subject.base.ids if subject.base else None) if ids]
    return subject.own_tokenizer.template_id in ids
