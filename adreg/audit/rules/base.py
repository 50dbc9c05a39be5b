"""B: the base at hand against the base of the training, by content ids and by name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adreg.audit.basecard import COMMIT, Relative
from adreg.audit.findings import Severity, Verdict
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.shapes import RIGHT_BASE, SILENT_LOAD
from adreg.audit.subject import Subject

TUNED = re.compile(r"-(instruct|it|chat)(?=-|$)")


@rule(
    "B-ID-1",
    "the base at hand is not the base of the training, by content",
    Severity.ERR,
    Cost.BASE,
    why=SILENT_LOAD,
    fix="give the base it was trained on, or train it again on this one",
    varies="info for the same values in other files, block for another architecture; warn where nobody recorded the base, and "
    "yet merge, export and serve need `--allow B-ID-1`",
)
def base_identity(subject: Subject) -> Iterator[Seen]:
    found, name = subject.verdict, subject.card.name
    if found is Verdict.SAME_VALUES:
        message, why = f"{name} holds the same values in other files or types", "it behaves the same up to rounding"
        yield Seen(message, name, seen=found.value, severity=Severity.INFO, why=why, fix="nothing to do")
    elif _other_weights(subject) and not (_requantised(subject) or _same_name(subject) or _tuning_confused(subject)):
        yield Seen(f"{name} has the shape of its base, but other weights", name, found.value, Verdict.EXACT.value)
    elif found is Verdict.DIFFERENT:
        message, why = f"{name} is another architecture than its base", "its updates belong to other weights"
        yield Seen(message, name, seen=found.value, expected=Verdict.EXACT.value, severity=Severity.BLOCK, why=why)
    elif found is Verdict.UNKNOWN:
        why, fix = "a wrong base of the same shape loads silently", "push it with --base, or --allow B-ID-1"
        yield Seen("nobody recorded which base it was trained on", name, severity=Severity.WARN, why=why, fix=fix)


@rule(
    "B-ID-2",
    "a base named by a branch or tag, or at another commit",
    Severity.WARN,
    Cost.HEADER,
    why="branches move: the name will mean other weights some day",
    fix="name the commit in `revision`, all 40 digits of it",
)
def moving_revision(subject: Subject) -> Iterator[Seen]:
    revision, base = subject.raw.get("revision"), subject.base
    if not isinstance(revision, str) or not revision:
        return
    if not COMMIT.fullmatch(revision):
        yield Seen("names its base by a branch or tag", "revision", seen=revision, expected="a commit of 40 digits")
    elif base is not None and base.commit not in (None, revision) and not subject.verdict.fits:
        yield Seen(f"{base.name} lies here at another commit", "revision", seen=base.commit, expected=revision)


@rule(
    "B-ID-3",
    "a base of the recorded name, but with other weights: the repository moved on",
    Severity.ERR,
    Cost.BASE,
    why="the name still loads, and the answers are wrong",
    fix="fetch the commit that it was trained on",
)
def moved_on(subject: Subject) -> Iterator[Seen]:
    if _other_weights(subject) and _same_name(subject) and not _requantised(subject):
        yield Seen(f"{subject.card.name} no longer holds the weights of the training", subject.card.name, *_weights(subject))


@rule(
    "B-ID-4",
    "a chat model where the training had the plain one, or the other way round",
    Severity.ERR,
    Cost.BASE,
    why="both have the same shapes, and the answers are wrong",
    fix=RIGHT_BASE,
)
def tuning_confused(subject: Subject) -> Iterator[Seen]:
    if _other_weights(subject) and _tuning_confused(subject) and not _requantised(subject):
        name, claim = subject.card.name, _claim(subject)
        yield Seen(f"it was trained on {claim}, and this is {name}", name, seen=name, expected=claim)


@rule(
    "B-CFG-1",
    "the weights of the training under another configuration",
    Severity.ERR,
    Cost.BASE,
    why="other heads, rotary positions or activations compute something else from the same weights, without a word",
    fix="use the config.json of the training",
)
def other_configuration(subject: Subject) -> Iterator[Seen]:
    then, now = subject.trained_on, subject.card.ids
    if subject.verdict is Verdict.SAME_ARCH and then is not None and not _other_weights(subject):
        yield Seen(f"config.json of {subject.card.name} is not that of the training", "config.json", now.cfg_id, then.cfg_id)


@rule(
    "B-QNT-1",
    "a quantised or re-typed copy of the base of the training, or the original of one",
    Severity.WARN,
    Cost.BASE,
    why="its answers differ a little from those of the training",
    fix="compare them, or use the base of the training",
    varies="it is a warning, and yet a merge needs `--allow B-QNT-1`",
)
def quantised_copy(subject: Subject) -> Iterator[Seen]:
    if subject.verdict is not Verdict.QUANT_OF or subject.trained_on is None:
        return
    name, relative = subject.card.name, subject.card.relative(subject.trained_on.weights_id)
    role = "a quantised or re-typed copy" if relative and relative.original else "the original"
    score = f" (score {relative.score:.2f}, by {relative.evidence})" if relative else ""
    message = f"{name} is {role} of the base that it was trained on{score}"
    yield Seen(message, name, seen=Verdict.QUANT_OF.value, expected=Verdict.EXACT.value)


@rule(
    "B-QNT-2",
    "a quantised copy of other weights than those of the training",
    Severity.ERR,
    Cost.BASE,
    why="it was made from another revision or model of the same shape, and the answers are wrong",
    fix="quantise the base it was trained on",
)
def requantised(subject: Subject) -> Iterator[Seen]:
    other = _requantised(subject) if _other_weights(subject) else None
    if other is not None and subject.trained_on is not None:
        message = f"{subject.card.name} was made from {other.name} (score {other.score:.2f}), not from the base of the training"
        yield Seen(message, subject.card.name, seen=other.weights_id, expected=subject.trained_on.weights_id)


def _other_weights(subject: Subject) -> bool:
    """Whether the base at hand has the architecture of the training's and other weights for certain."""
    then = subject.trained_on
    if subject.verdict is not Verdict.SAME_ARCH or then is None:
        return False
    now = subject.card.ids
    alike = now.weights_id == then.weights_id or now.content_id == then.content_id or now.values_id == then.values_id
    related = any(one.weights_id == then.weights_id and one.verdict == Verdict.QUANT_OF.value for one in subject.card.relatives)
    return not alike and not related


def _requantised(subject: Subject) -> Relative | None:
    """What the base at hand is a copy of, where it is one."""
    originals = (one for one in subject.card.relatives if one.original and one.verdict == Verdict.QUANT_OF.value)
    return next(originals, None)


def _claim(subject: Subject) -> str:
    claim = subject.raw.get("base_model_name_or_path")
    return claim if isinstance(claim, str) else ""


def _plain(name: str) -> str:
    """The last part of a name, in the one spelling that a registered base would have."""
    return re.sub(r"[^a-z0-9]+", "-", name.rstrip("/").rpartition("/")[2].lower()).strip("-")


def _same_name(subject: Subject) -> bool:
    return bool(_claim(subject)) and _plain(_claim(subject)) == _plain(subject.card.name)


def _tuning_confused(subject: Subject) -> bool:
    """Whether the two names differ by `-Instruct`, `-it` or `-chat` and nothing else."""
    claim, name = _plain(_claim(subject)), _plain(subject.card.name)
    return claim != name and bool(claim) and TUNED.sub("", claim) == TUNED.sub("", name)


def _weights(subject: Subject) -> tuple[str, str]:
    """The weights' ids seen and expected."""
    return subject.card.ids.weights_id, subject.trained_on.weights_id if subject.trained_on else ""
