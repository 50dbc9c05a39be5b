"""F: the folder and the safetensors file as containers."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import format_rule, problems_of
from adreg.audit.rules.keys import is_shard
from adreg.audit.subject import Subject
from adreg.formats.adapters.adapter import WEIGHTS
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.dtypes import FLOATS
from adreg.formats.safetensors import TensorView

LARGE_FILE = 8_000_000_000
SPARE, HEADER_ROOM, ENTRY_ROOM = 1.2, 65_536, 128

f_hdr_1 = format_rule("F-HDR-1", "a header that is longer than its file or than 25 MB")
f_hdr_2 = format_rule(
    "F-HDR-2",
    "a header that does not start with '{' or ends in something other than spaces",
    why="the format says that it must; what hides around a header is read by nobody who checks",
)
f_hdr_3 = format_rule(
    "F-HDR-3",
    "a header that is not strict JSON, such as one with a key twice",
    why="readers disagree on which of the two counts",
)
f_hdr_4 = format_rule("F-HDR-4", "a header entry with unknown, missing or mistyped fields")
f_hdr_5 = format_rule("F-HDR-5", "more than 100,000 tensors", why="no adapter has them; building them would exhaust memory")
f_off_1 = format_rule(
    "F-OFF-1",
    "holes, overlaps or bytes that belong to no tensor",
    why="the rest of the file could be another file, and a cut one would be read past its end",
)
f_off_2 = format_rule("F-OFF-2", "a tensor whose size is not its shape times its type")
f_nam_1 = format_rule(
    "F-NAM-1",
    "tensor names that are empty, too long, or hold path or invisible characters",
    why="such a name shows as another one, or leads out of a folder where tensors become files",
)


@rule(
    "F-SHP-1",
    "a tensor that is empty, or a flattened matrix",
    Severity.BLOCK,
    Cost.HEADER,
    why="a training on several devices saved only its own shard; PEFT says so at saving, and loads nothing of it",
    fix="gather the weights before saving, as the trainer's `save_model` does",
)
def shards(subject: Subject) -> Iterator[Seen]:
    for name, parts in subject.family.modules.items():
        odd = sorted((part, view.shape) for part, view in parts.items() if is_shard(part, view.shape))
        if odd:
            part, shape = odd[0]
            yield Seen(f"its part {part} has shape {list(shape)}", name, seen=list(shape), expected="two dimensions above 0")


@rule(
    "F-SIZ-1",
    "a weights file larger than an adapter is, or than its rank and shapes make it",
    Severity.WARN,
    Cost.HEADER,
    why="a low-rank update is a small part of its base; what is larger carries something else as well",
    fix="check what modules_to_save, the rank and the file's own metadata take in",
)
def large_file(subject: Subject) -> Iterator[Seen]:
    size = next((entry.size for entry in subject.inspection.listing if entry.name == WEIGHTS), 0)
    implied = implied_size(subject)
    if size > LARGE_FILE:
        yield Seen(f"its weights take {size / 1e9:.1f} GB", WEIGHTS, seen=size, expected=f"{LARGE_FILE} at most")
    elif implied and size > SPARE * implied + HEADER_ROOM:
        message = f"its weights take {size:,} bytes; its rank and shapes make them about {implied:,}"
        yield Seen(message, WEIGHTS, seen=size, expected=f"about {implied}")


def implied_size(subject: Subject) -> int:
    """Bytes of the tensors that its configuration asks for, and of their names. Of a LoRA half with more than the declared
    rank only that much counts; base tensors and what is no adapter parameter do not."""
    family, rank = subject.family, _declared_rank(subject)
    parts = [part for parts in (*family.modules.values(), *family.sides.values()) for part in parts.items()]
    counted = [(name, view) for name, view in (*parts, *family.saved.items(), *family.shared.items()) if name != "base_copy"]
    return sum(int(view.nbytes * _share(name, view, rank)) + len(view.name) + ENTRY_ROOM for name, view in counted)


def _share(part: str, view: TensorView, rank: int | None) -> float:
    """How much of a part the declared rank accounts for."""
    axis = {"A": 0, "B": 1}.get(part)
    if rank is None or axis is None or len(view.shape) != 2 or not view.shape[axis]:
        return 1.0
    return min(1.0, rank / view.shape[axis])


def _declared_rank(subject: Subject) -> int | None:
    """The highest rank that the configuration names; None where the tensors' own rank may be another."""
    plain = subject.family.kind is Kind.LORA and not subject.raw.get("target_parameters")
    return max(subject.family.declared_ranks, default=None) if plain else None


@rule(
    "F-EMP-1",
    "nothing that could adapt anything",
    Severity.BLOCK,
    Cost.HEADER,
    why="an adapter without modules is the base under another name",
    fix="save the adapter again",
)
def no_modules(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("F-EMP-1")(subject)
    family = subject.family
    if subject.tensors and not (family.modules or family.sides or family.shared):
        yield Seen("no adapted module in the file", seen=0, expected="1 or more")


@rule(
    "F-DTY-1",
    "element types that are no adapter's",
    Severity.BLOCK,
    Cost.HEADER,
    why="adapters are F32, F16 or BF16",
    fix="save it as float32",
    varies="err for other kinds of floating-point numbers, such as F64 and F8",
)
def odd_types(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("F-DTY-1")(subject)
    family = subject.family
    for name, parts in {**family.modules, **family.sides, **({"prompt": family.shared} if family.shared else {})}.items():
        odd = sorted({view.dtype for view in parts.values()} - set(FLOATS))
        if odd:
            severity = Severity.ERR if all(dtype.startswith("F") for dtype in odd) else None
            seen = ", ".join(odd)
            yield Seen(f"stored as {seen}", name, seen=seen, expected=", ".join(FLOATS), severity=severity)
