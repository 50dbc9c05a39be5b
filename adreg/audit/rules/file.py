"""F: the folder and the safetensors file as containers."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import format_rule, problems_of
from adreg.audit.subject import Subject
from adreg.formats.dtypes import FLOATS

f_gen_1 = format_rule("F-GEN-1", "a file that breaks its format in a way that has no rule of its own")
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
f_dir_1 = format_rule(
    "F-DIR-1",
    "no adapter: a file is missing or is not a regular file",
    why="an adapter is adapter_config.json and adapter_model.safetensors",
    fix="give the folder that `save_pretrained` wrote",
)
f_mut_1 = format_rule("F-MUT-1", "a file that changed while it was being read", fix="wait until it is written, and try again")


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
)
def odd_types(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("F-DTY-1")(subject)
    for name, parts in subject.family.modules.items():
        odd = sorted({view.dtype for view in parts.values()} - set(FLOATS))
        if odd:
            yield Seen(f"stored as {', '.join(odd)}", name, seen=", ".join(odd), expected=", ".join(FLOATS))
