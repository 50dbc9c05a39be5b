"""S-SIG, S-PRV, S-LIC: who says that an adapter is theirs, how it was made, and under which terms it may be passed on."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.licenses import UNSAID, keeps, license_of, terms
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.folder import beside
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import CONFIG, RECORD, WEIGHTS
from adreg.formats.digests import file_sha256
from adreg.formats.signatures import LIMIT, is_signature, signed_digests
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.frontmatter import CARD, front_matter

UNVERIFIED = "adreg verifies no signatures: it only tells that one is there"


@rule(
    "S-SIG-1",
    "a signature that was not verified",
    Severity.INFO,
    Cost.HEADER,
    why=UNVERIFIED,
    fix="verify it with the tool that made it, such as model_signing, minisign or gpg; it is not stored",
)
def unverified_signature(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        if is_signature(entry.name):
            yield Seen("is a signature, which was not verified", entry.name, seen="not verified")


@rule(
    "S-SIG-2",
    "a signature for other files than these",
    Severity.ERR,
    Cost.TENSORS,
    why="whoever signed it did not sign what lies here: it was changed since, or the signature was copied",
    fix="fetch the adapter and its signature again from where they were published",
)
def signature_of_others(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        raw = subject.inspection.read(entry.name, LIMIT) if is_signature(entry.name) else None
        signed = signed_digests(raw) if raw else None
        if signed is not None:
            yield from _differences(subject, entry.name, signed)


def _differences(subject: Subject, signature: str, signed: dict[str, str]) -> Iterator[Seen]:
    for name in (CONFIG, WEIGHTS):
        if name not in signed:
            yield Seen(f"{signature} does not cover it", name, seen="not signed", expected="signed")
    for name, expected in sorted(signed.items()):
        path = subject.inspection.files.get(name)
        if path is None:
            yield Seen(f"{signature} covers it, and it is not here", name[:120], seen="missing", expected=expected)
            continue
        found = file_sha256(path)
        if found != expected:
            yield Seen(f"it has another digest than {signature} says", name, seen=found, expected=expected)


@rule(
    "S-PRV-1",
    "no whole record of how it was made",
    Severity.INFO,
    Cost.HEADER,
    why="nobody can repeat it, or tell which data and which base are in it",
    fix="train it with adreg, which writes adreg.json, or put the record of your training there",
)
def no_record(subject: Subject) -> Iterator[Seen]:
    record = subject.record
    if subject.raw and not record:
        told = "cannot be read" if RECORD in subject.inspection.files else "is not there"
        yield Seen(f"the record of its making {told}", RECORD, seen=told, expected="a run, or its parents")
    elif record and not record.get("parents"):
        lacking = [what for what, there in _told_by(record).items() if not there]
        if lacking:
            yield Seen(f"its record lacks {', '.join(lacking)}", RECORD, seen=", ".join(lacking), expected="all of it")


def _told_by(record: JsonObject) -> dict[str, bool]:
    """What a record must tell for others to repeat the run, and whether it does."""
    base, data, versions = record.get("base"), record.get("data"), record.get("versions")
    files = data if isinstance(data, list) else []
    return {
        "the base's weights_id": isinstance(base, dict) and isinstance(base.get("weights_id"), str),
        "the digests of its data": bool(files) and all(isinstance(one, dict) and one.get("sha256") for one in files),
        "its settings": isinstance(record.get("config"), dict),
        "the versions of what trained it": isinstance(versions, dict) and bool(versions),
    }


@rule(
    "S-PRV-2",
    "a record of another adapter's making",
    Severity.WARN,
    Cost.HEADER,
    why="what it says of data and base is not this adapter's history",
    fix="put the record of this adapter there, or none",
)
def record_of_another(subject: Subject) -> Iterator[Seen]:
    record = subject.record if subject.raw and subject.inspection.weights_sound else {}
    config = record.get("config")
    settings = config.get("lora") if isinstance(config, dict) else None
    lora = settings if isinstance(settings, dict) else {}
    said = {"r": lora.get("r"), "lora_alpha": lora.get("alpha")}
    for field, expected in said.items():
        found = subject.raw.get(field)
        if isinstance(expected, int | float) and found != expected:
            yield Seen(f"its record says {field} {expected}, its configuration {found}", field, seen=found, expected=expected)
    count, trained = record.get("trainable"), sum(view.count for view in subject.family.trained)
    if type(count) is int and count != trained:
        message = f"its record says {count:,} trained parameters, its file has {trained:,}"
        yield Seen(message, "trainable", seen=trained, expected=count)


@rule(
    "S-LIC-1",
    "a licence that the base's does not allow",
    Severity.WARN,
    Cost.BASE,
    why="who passes it on breaks the base's terms; adreg compares names of licences and knows no law",
    fix="name the base's licence in README.md, or ask its owner",
    varies="info where the adapter names no licence and the base's terms hold for it too",
)
def license_conflict(subject: Subject) -> Iterator[Seen]:
    base = subject.card.license
    if not terms(base):
        return
    own = license_of(front_matter(subject.inspection.read(CARD) or b""))
    if not keeps(own, base):
        message = f"its licence is {own or 'not named'}; its base's is {base}, which {terms(base)}"
        yield Seen(message, CARD, seen=own or "none", expected=base, severity=Severity.INFO if own in UNSAID else None)


@rule(
    "S-LIC-2",
    "a base that is not handed out to everybody",
    Severity.INFO,
    Cost.BASE,
    why="whoever gets the adapter must ask for the base, and accept its terms, before it can run",
    fix="say so where you publish it",
)
def gated_base(subject: Subject) -> Iterator[Seen]:
    if subject.card.gated:
        yield Seen(f"{subject.card.name} is gated on its hub", subject.card.name, seen="gated")
