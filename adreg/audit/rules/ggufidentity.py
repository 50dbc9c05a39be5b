"""G-ID: what a GGUF file says of its origin, held against what the file itself and the registry say."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity, Verdict
from adreg.audit.gguf import WEIGHTS_ID, GgufSubject
from adreg.audit.rule import Cost, Seen, rule
from adreg.formats.digests import file_sha256
from adreg.formats.gguf.names import CLASSES, ROPE_FACTORS, checkpoint_name

OWN_BASE = "use the base it was made from"


@rule(
    "G-ID-1",
    "a file that does not say which weights it was made from",
    Severity.INFO,
    Cost.HEADER,
    why="nobody can tell which base and adapter it is",
    fix="make it with adreg merge, which writes the ids into it",
)
def no_origin(subject: GgufSubject) -> Iterator[Seen]:
    if subject.file is not None and not subject.text(WEIGHTS_ID):
        yield Seen("carries no id of its base", WEIGHTS_ID)


@rule(
    "G-ID-2",
    "an id that the file carries and its own tokenizer contradicts",
    Severity.ERR,
    Cost.TENSORS,
    why="its vocabulary was changed after it was made, or the id was copied from another file",
    fix="make it again, or fetch it from where it was made",
)
def own_tokenizer(subject: GgufSubject) -> Iterator[Seen]:
    carried = subject.text("adreg.base.vocab_id")
    found = subject.tokenizer.vocab_id if carried and subject.is_model else None
    if found is not None and found != carried:
        yield Seen("its vocabulary has another id than it says", "adreg.base.vocab_id", seen=found, expected=carried)


@rule(
    "G-ID-3",
    "another chat template than the base's",
    Severity.INFO,
    Cost.HEADER,
    why="right where the adapter brought its own; anybody can change a template and leave the rest",
    fix="compare it with the adapter's chat_template.jinja",
    varies="warn where the file carries no adapter that could have brought one",
)
def own_template(subject: GgufSubject) -> Iterator[Seen]:
    expected = template_of_base(subject) or subject.text("adreg.base.tpl_id")
    found = subject.tokenizer.tpl_id if expected and subject.is_model else expected
    if found != expected:
        severity = Severity.INFO if carried_adapters(subject) else Severity.WARN
        yield Seen("has another chat template than its base", "tokenizer.chat_template", found or "none", expected, severity)


def template_of_base(subject: GgufSubject) -> str:
    """The id of the registered base's chat template, where the file carries that base's id; else empty."""
    base = subject.facts.base if subject.facts else None
    return (base.ids.tpl_id if base else None) or ""


@rule(
    "G-ID-4",
    "a registered base that has other tensors",
    Severity.ERR,
    Cost.HEADER,
    why="it cannot have been made from the base whose id it carries",
    fix="make it again, or fetch it from where it was made",
)
def base_tensors(subject: GgufSubject) -> Iterator[Seen]:
    card = subject.facts.base if subject.facts and subject.is_model else None
    if card is None or subject.architecture not in CLASSES:
        return
    own = {checkpoint_name(subject.architecture, name): view.shape for name, view in subject.tensors.items()}
    own.pop(ROPE_FACTORS, None)
    for name in sorted(set(own) & set(card.shapes)):
        if own[name] != tuple(card.shapes[name]):
            yield Seen(f"{name} has another shape than in {card.name}", name, own[name], card.shapes[name])
    tied = {"lm_head.weight"} if card.tied else set()
    for name in sorted((set(own) ^ set(card.shapes)) - tied):
        if not name.endswith(("rotary_emb.inv_freq", ".masked_bias")):
            yield Seen(f"{name} is in one of the file and {card.name} only", name)


@rule(
    "G-ID-5",
    "ids of a base or an adapter that the registry does not have",
    Severity.INFO,
    Cost.HEADER,
    why="nothing here can confirm them",
    fix="register the base with adreg base add, and pull the adapter",
)
def unknown_origin(subject: GgufSubject) -> Iterator[Seen]:
    carried = subject.text(WEIGHTS_ID)
    if subject.facts is None or not carried:
        return
    if subject.facts.base is None:
        yield Seen("no registered base has its weights' id", WEIGHTS_ID, seen=carried)
    for key, digest in carried_adapters(subject).items():
        if digest not in subject.facts.adapters:
            yield Seen("no adapter here has the digest it carries", key, seen=digest)


def carried_adapters(subject: GgufSubject) -> dict[str, str]:
    """The adapters' digests by the field that carries them."""
    keys = [key for key in subject.fields if key.startswith("adreg.adapter.") and key.endswith(".digest")]
    return {key: subject.text(key) for key in sorted(keys) if subject.text(key)}


@rule(
    "G-ID-6",
    "a file that was changed since adreg wrote it",
    Severity.ERR,
    Cost.TENSORS,
    why="it is not the file that was verified",
    fix="make it again with adreg merge",
)
def changed_since(subject: GgufSubject) -> Iterator[Seen]:
    recorded = subject.facts.recorded if subject.facts else ""
    if recorded and subject.path.is_file():
        found = f"sha256:{file_sha256(subject.path)}"
        if found != recorded:
            yield Seen("has another digest than was recorded for it", subject.path.name, seen=found, expected=recorded)


@rule(
    "G-ID-7",
    "a LoRA whose recorded base is not the base at hand",
    Severity.ERR,
    Cost.BASE,
    why="llama.cpp compares shapes only: it loads, and the answers are wrong",
    fix=OWN_BASE,
)
def other_base(subject: GgufSubject) -> Iterator[Seen]:
    if subject.verdict is Verdict.DIFFERENT:
        base = subject.against
        yield Seen(f"{base.name} is not the base it was made for", WEIGHTS_ID, base.weights_id, subject.text(WEIGHTS_ID))
