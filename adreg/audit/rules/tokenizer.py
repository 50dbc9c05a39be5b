"""T: the tokenizer, of the base at hand and of the adapter itself."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.shapes import trained_tokens
from adreg.audit.subject import Subject
from adreg.audit.weights import BaseWeights, is_table
from adreg.formats.text.tokenizer import ROLES

OWN = "tokenizer.json"


@rule(
    "T-TOK-0",
    "a tokenizer file that is none",
    Severity.ERR,
    Cost.TOKENIZER,
    why="loaders fail on it, or read something else than was meant",
    fix="save the tokenizer again, or leave it out",
)
def unreadable(subject: Subject) -> Iterator[Seen]:
    for problem in subject.own_tokenizer.problems:
        yield Seen(problem.why, subject.name_of(problem.path))


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
    "T-TOK-5",
    "a tokenizer beside the adapter that is not the base's",
    Severity.ERR,
    Cost.TOKENIZER,
    why="the same ids are other tokens, so the answers are wrong with one of the two",
    fix="save the tokenizer of the base beside it, or none",
    varies="warn where the tokens are the base's and only the way to them differs; added tokens are T-TOK-2",
)
def own_tokenizer(subject: Subject) -> Iterator[Seen]:
    own, base = subject.own_tokenizer, subject.base
    if own.definition is None or base is None or base.tokens is None or base.ids.tok_id is None:
        return
    tok_id, vocab_id = own.ids_below(base.tokens)
    if base.ids.vocab_id is not None and vocab_id != base.ids.vocab_id:
        yield Seen(f"its tokens are not those of {base.name}", OWN, seen=vocab_id, expected=base.ids.vocab_id)
    elif tok_id != base.ids.tok_id:
        message = f"it has the tokens of {base.name}, and splits texts in another way"
        yield Seen(message, OWN, seen=tok_id, expected=base.ids.tok_id, severity=Severity.WARN)


@rule(
    "T-TOK-2",
    "added tokens whose rows nobody trained",
    Severity.ERR,
    Cost.TOKENIZER,
    why="the base's rows for them are what the model was padded with, or nothing",
    fix="train their rows (modules_to_save or trainable_token_indices), or leave the tokens out",
)
def untrained_tokens(subject: Subject) -> Iterator[Seen]:
    base, own = subject.base, subject.own_tokenizer
    if base is None or base.tokens is None or own.definition is None or _trains_tables(subject):
        return
    rows, trained = _rows(subject), set(trained_tokens(subject))
    new = [text for id_, text in sorted(own.added.items()) if base.tokens <= id_ < (rows or id_ + 1) and id_ not in trained]
    if new:
        yield Seen(f"adds {len(new)} tokens and trains no row for them, such as {new[0][:60]!r}", OWN, len(new), 0)


@rule(
    "T-TOK-3",
    "special tokens that are not the base's",
    Severity.WARN,
    Cost.TOKENIZER,
    why="answers begin or stop elsewhere than at training",
    fix="check bos, eos, pad and unk in tokenizer_config.json",
    varies="info for a pad token that is the base's, and its eos token too",
)
def special_tokens(subject: Subject) -> Iterator[Seen]:
    base, own = subject.base, subject.own_tokenizer.special
    if base is None or not base.special or not own:
        return
    for role in ROLES:
        seen, expected = own.get(role), base.special.get(role)
        if seen != expected and (role != "pad_token" or expected is not None or seen != own.get("eos_token")):
            yield Seen(f"its {role} is {seen!r}, the base's {expected!r}", "tokenizer_config.json", seen, expected)
    if own.get("pad_token") is not None and own.get("pad_token") == own.get("eos_token"):
        message, why = "pads with the token that ends answers", "training that masks the padding never teaches to stop"
        severity = Severity.INFO if base.special.get("pad_token") in (own["pad_token"], None) else None
        yield Seen(message, "tokenizer_config.json", own["pad_token"], "a token of its own", severity=severity, why=why)


@rule(
    "T-TOK-4",
    "a tokenizer with more tokens than the embedding has rows",
    Severity.ERR,
    Cost.TOKENIZER,
    why="the first of those tokens in a prompt stops the model with an error",
    fix="use the tokenizer of the base, or resize and train its embedding",
)
def too_many_tokens(subject: Subject) -> Iterator[Seen]:
    rows, count = _rows(subject), subject.own_tokenizer.count
    if rows is not None and count > rows:
        yield Seen(f"its tokenizer has {count} tokens, the embedding {rows} rows", OWN, seen=count, expected=rows)


def _rows(subject: Subject) -> int | None:
    """Tokens that the embedding has: the adapter's own where it brings one, else the base's."""
    own = [view.shape[0] for raw, view in subject.family.saved.items() if len(view.shape) == 2 and _is_embedding(raw)]
    table = BaseWeights(subject.base).embedding if subject.base else None
    return max(own, default=table[0] if table else None)


def _is_embedding(raw: str) -> bool:
    return is_table(raw.removesuffix(".weight"))


def _trains_tables(subject: Subject) -> bool:
    """Whether it trains an embedding whole, or by LoRA."""
    return any(map(_is_embedding, subject.family.saved)) or any(map(is_table, subject.family.modules))
