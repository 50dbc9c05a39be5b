"""S: where it comes from and what travels with it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import problems_of
from adreg.audit.rules.folder import TRAINING_STATE, beside
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import PICKLE, WEIGHTS
from adreg.formats.adapters.listing import Entry

PICKLE_PROTOCOL = re.compile(rb"\x80[\x02-\x05](?!.{6}\{)", re.DOTALL)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
TEXT_SUFFIXES = (".json", ".md", ".txt", ".jinja", ".yaml", ".yml", ".toml", ".log", ".env")
SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "an AWS key": re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "an API key": re.compile(rb"\b(sk-[A-Za-z0-9_\-]{32,}|gh[pousr]_[A-Za-z0-9]{36,}|xox[baprs]-[A-Za-z0-9\-]{20,})"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"),
    "a path of someone's home": re.compile(rb"(/home/|/Users/|[A-Z]:\\\\?Users\\\\?)[A-Za-z][\w.\-]{1,40}"),
}
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "merges.txt")
NAME_LIMIT = 255
LOOKS = str.maketrans("015\u0131\u0456\u043e\u0430\u0435\u0441\u0440\u0445\u0443", "oisiioaecpxy")


def is_pickle(entry: Entry) -> bool:
    """Whether its first bytes are a pickle's, or those of the archive that torch keeps one in. Nothing is unpickled.

    A safetensors file may begin so too, with the length of its header; its ninth byte is a brace, which no pickle's is.
    """
    return PICKLE_PROTOCOL.match(entry.magic) is not None or entry.magic.startswith(b"PK\x03\x04")


@rule(
    "S-PKL-1",
    "a pickle where safetensors belong",
    Severity.BLOCK,
    Cost.HEADER,
    why="loading it could run code, so nothing here ever opens it",
    fix="convert it to safetensors where it came from",
)
def pickled_weights(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("S-PKL-1")(subject)
    for entry in beside(subject):
        if entry.name == WEIGHTS and is_pickle(entry):
            yield Seen("is a pickle under a safetensors name", entry.name, seen=entry.magic[:4].hex(" "))


@rule(
    "S-PKL-2",
    "a pickle beside the adapter",
    Severity.WARN,
    Cost.HEADER,
    why="loading it could run code; it is never opened here, and never stored",
    fix="remove it",
)
def pickles_beside(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        known = entry.name in (WEIGHTS, PICKLE) or TRAINING_STATE.fullmatch(entry.name)
        if not known and (entry.suffix in PICKLE_SUFFIXES or PICKLE_PROTOCOL.match(entry.magic)):
            yield Seen("is a pickle", entry.name, seen=entry.magic[:4].hex(" "))


@rule(
    "S-PATH-1",
    "file names that other systems cannot hold, or hold as another file",
    Severity.ERR,
    Cost.HEADER,
    why="unpacked elsewhere such a file lands on another one, or in another place",
    fix="rename the file",
)
def odd_names(subject: Subject) -> Iterator[Seen]:
    names = [entry.name for entry in beside(subject)]
    folded = Counter(unicodedata.normalize("NFC", name).casefold() for name in names)
    for name in names:
        twice = folded[unicodedata.normalize("NFC", name).casefold()] > 1
        if twice or _is_odd(name):
            told = "differs from another only in the case of its letters" if twice else "is a name that not every system takes"
            yield Seen(told, name[:120].encode("utf-8", "backslashreplace").decode(), seen=ascii(name[:120]))


def _is_odd(name: str) -> bool:
    control = any(unicodedata.category(character).startswith("C") for character in name)
    unportable = any(character in '\\:*?"<>|' for character in name) or name.endswith((".", " "))
    return control or unportable or RESERVED.fullmatch(name) is not None or len(name.encode("utf-8", "replace")) > NAME_LIMIT


@rule(
    "S-SEC-1",
    "secrets or home paths in its text files",
    Severity.WARN,
    Cost.HEADER,
    why="whoever gets the adapter gets them too",
    fix="take them out, and revoke a token that was passed on",
    varies="info for the path of a home",
)
def secrets(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        if entry.suffix not in TEXT_SUFFIXES or entry.name in VOCABULARIES or entry.kind not in ("file", "hardlink"):
            continue
        text = subject.inspection.read(entry.name) or b""
        for kind, expression in SECRETS.items():
            if expression.search(text):
                severity = Severity.INFO if "home" in kind else None
                yield Seen(f"holds {kind}", entry.name, seen="not shown", severity=severity)


@rule(
    "S-TYP-1",
    "a name that is easily taken for another adapter's",
    Severity.WARN,
    Cost.HEADER,
    why="whoever mistypes or misreads the one gets the other",
    fix="choose a name that differs more",
)
def confusable_name(subject: Subject) -> Iterator[Seen]:
    own = subject.registry.name
    for other in subject.registry.names:
        if own and other != own and _skeleton(other) == _skeleton(own):
            yield Seen(f"is easily taken for {other}", own, seen=own, expected=f"not {other}")


def _skeleton(name: str) -> str:
    """What remains of a name for a hasty eye: no case, no separators, digits and foreign letters as what they look like."""
    plain = unicodedata.normalize("NFKC", name).casefold().translate(LOOKS)
    return re.sub(r"[-_.]", "", plain).replace("rn", "m").replace("l", "i")
