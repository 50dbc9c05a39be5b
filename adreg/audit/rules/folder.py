"""F-DIR: what lies in the adapter's folder besides the adapter. Subfolders hold no part of it and are nobody's concern."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import problems_of
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.adapters.listing import Entry

TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state\w*|training_args|zero_pp_\w*|random_states_\d+)\.(pt|pth|bin|pkl)"
)
FULL_MODEL = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)|.*\.gguf")
CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js")
FOREIGN_KINDS = {
    "link": (Severity.BLOCK, "is a link", "copy the file itself"),
    "other": (Severity.BLOCK, "is a device, a pipe or a socket", "remove it"),
    "hardlink": (Severity.INFO, "has a second name elsewhere, which can change it", "copy the file itself"),
}


def beside(subject: Subject) -> tuple[Entry, ...]:
    """What lies in the folder itself."""
    return tuple(entry for entry in subject.inspection.listing if "/" not in entry.name and entry.kind != "folder")


@rule(
    "F-DIR-1",
    "no adapter folder: a file is missing, or something lies there that is no file",
    Severity.BLOCK,
    Cost.HEADER,
    why="an adapter is adapter_config.json and adapter_model.safetensors, and what else lies there travels with it",
    fix="give the folder that `save_pretrained` wrote",
    varies="info for a file with a second name (hard link)",
)
def odd_folder(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("F-DIR-1")(subject)
    for entry in beside(subject):
        if entry.kind in FOREIGN_KINDS:
            severity, message, fix = FOREIGN_KINDS[entry.kind]
            yield Seen(message, entry.name, entry.kind, "file", severity=severity, fix=fix)


@rule(
    "F-DIR-2",
    "a whole model beside the adapter",
    Severity.WARN,
    Cost.HEADER,
    why="some loaders take the model and never look at the adapter",
    fix="keep model and adapter in folders of their own",
)
def model_beside(subject: Subject) -> Iterator[Seen]:
    found = [entry.name for entry in beside(subject) if FULL_MODEL.fullmatch(entry.name)]
    if found:
        yield Seen(
            f"{len(found)} files of a whole model lie beside it", found[0], seen=found[0], expected=f"{CONFIG}, {WEIGHTS}"
        )


@rule(
    "F-DIR-3",
    "the state of a training beside the adapter",
    Severity.WARN,
    Cost.HEADER,
    why="such files are pickles, which can run code, and hold paths and settings of whoever trained; none is stored",
    fix="remove them before you pass the folder on",
)
def training_state(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        if TRAINING_STATE.fullmatch(entry.name):
            yield Seen("is a training's own state", entry.name, seen=entry.size)


@rule(
    "F-DIR-4",
    "code beside the adapter",
    Severity.WARN,
    Cost.HEADER,
    why="an adapter is numbers; code beside it waits for someone to run it, and is never stored",
    fix="remove it",
)
def code_beside(subject: Subject) -> Iterator[Seen]:
    for entry in beside(subject):
        if entry.suffix in CODE or entry.magic.startswith((b"\x7fELF", b"MZ", b"#!")):
            yield Seen("is code", entry.name, seen=entry.suffix or entry.magic[:4].hex())
