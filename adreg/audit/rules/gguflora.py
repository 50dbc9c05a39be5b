"""G-LRA: a LoRA in a GGUF file, by the rules of llama.cpp's loader (src/llama-adapter.cpp, b11434)."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.gguf import GgufSubject
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.gguf import number
from adreg.formats.dtypes import FLOATS, any_nonzero
from adreg.formats.safetensors import TensorView

CONVERT_AGAIN = "convert the adapter again"
RIGHT_BASE = "give the base it was trained on"
EMBEDDING = "token_embd.weight"


@rule(
    "G-LRA-1",
    "an adapter that is no LoRA",
    Severity.ERR,
    Cost.HEADER,
    why="llama.cpp refuses it",
    fix=CONVERT_AGAIN,
)
def no_lora(subject: GgufSubject) -> Iterator[Seen]:
    kind = subject.fields.get("adapter.type")
    if subject.is_lora and kind != "lora":
        yield Seen(f"its type is {str(kind)[:40]!r}", "adapter.type", seen=kind, expected="lora")


@rule(
    "G-LRA-2",
    "tensors that form no pair, or belong to no LoRA",
    Severity.ERR,
    Cost.HEADER,
    why="llama.cpp refuses it",
    fix=CONVERT_AGAIN,
)
def unpaired(subject: GgufSubject) -> Iterator[Seen]:
    if not subject.is_lora:
        return
    for name in subject.tensors:
        if not name.endswith((".lora_a", ".lora_b", "_norm.weight")):
            yield Seen(f"{name!r} is no half of a pair", name)
    for name, halves in subject.pairs.items():
        if len(halves) < 2:
            yield Seen("lacks a half", name, seen=f"lora_{next(iter(halves))}", expected="lora_a and lora_b")
        elif not multiplies(name, halves):
            seen = f"a {list(halves['a'].shape)}, b {list(halves['b'].shape)}"
            yield Seen("its halves do not multiply", name, seen=seen)
    if not subject.pairs:
        yield Seen("holds no pair", subject.path.name)


def multiplies(name: str, halves: dict[str, TensorView] | object) -> bool:
    """Whether A (rank, in) and B (out, rank) have one rank; A of an embedding is stored (vocabulary, rank)."""
    assert isinstance(halves, dict)
    a, b = halves["a"].shape, halves["b"].shape
    return len(a) == len(b) and len(a) > 1 and b[-1] == (a[-1] if name == EMBEDDING else a[-2])


@rule(
    "G-LRA-3",
    "norms that llama.cpp skips",
    Severity.ERR,
    Cost.HEADER,
    why="it loads without a word and answers without what they do",
    fix="merge the adapter instead: adreg merge --to gguf",
)
def norms(subject: GgufSubject) -> Iterator[Seen]:
    for name in subject.tensors if subject.is_lora else ():
        if name.endswith("_norm.weight"):
            yield Seen(f"carries {name!r}, which llama.cpp does not read", name)


@rule(
    "G-LRA-4",
    "an alpha that is missing, 0 or no number",
    Severity.ERR,
    Cost.HEADER,
    why="without one, or with 0, llama.cpp scales by 1 and not by alpha/rank; NaN makes every answer NaN",
    fix="set adapter.lora.alpha with gguf-set-metadata, or convert the adapter again",
)
def alpha(subject: GgufSubject) -> Iterator[Seen]:
    value = subject.fields.get("adapter.lora.alpha")
    found = number(value)
    if subject.is_lora and (found is None or found <= 0):
        yield Seen(f"its alpha is {str(value)[:40]}", "adapter.lora.alpha", seen=str(value)[:40], expected="a number above 0")


@rule(
    "G-LRA-5",
    "every lora_b is zero",
    Severity.ERR,
    Cost.TENSORS,
    why="the adapter is the base under another name",
    fix="check that the training ran",
)
def no_effect(subject: GgufSubject) -> Iterator[Seen]:
    halves = [halves["b"] for halves in subject.pairs.values() if "b" in halves and halves["b"].dtype in FLOATS]
    if halves and not any(any_nonzero(half.data, half.dtype) for half in halves):
        yield Seen("every lora_b is zero: it does nothing", seen=f"{len(halves)} of {len(halves)}", expected="none")


@rule(
    "G-LRA-6",
    "a base of another architecture",
    Severity.BLOCK,
    Cost.BASE,
    why="llama.cpp refuses it: model arch and LoRA arch mismatch",
    fix=RIGHT_BASE,
)
def other_architecture(subject: GgufSubject) -> Iterator[Seen]:
    here, there = subject.architecture, subject.against.architecture
    if here != there:
        yield Seen(f"is for {here}, and {subject.against.name} is {there}", "general.architecture", seen=here, expected=there)


@rule(
    "G-LRA-7",
    "a tensor that the base does not have",
    Severity.BLOCK,
    Cost.BASE,
    why="llama.cpp refuses it: maybe wrong base model",
    fix=RIGHT_BASE,
)
def missing_tensors(subject: GgufSubject) -> Iterator[Seen]:
    if subject.architecture == subject.against.architecture:
        for name in subject.pairs:
            if name not in subject.against.shapes:
                yield Seen(f"{subject.against.name} has no tensor {name!r}", name)


@rule(
    "G-LRA-8",
    "an update of another shape than the base's tensor",
    Severity.BLOCK,
    Cost.BASE,
    why="llama.cpp refuses it: incorrect shape",
    fix=RIGHT_BASE,
)
def wrong_shapes(subject: GgufSubject) -> Iterator[Seen]:
    if subject.architecture != subject.against.architecture:
        return
    for name, halves in subject.pairs.items():
        expected = subject.against.shapes.get(name)
        if expected is None or len(halves) < 2 or min(len(half.shape) for half in halves.values()) < 2:
            continue
        a, b = halves["a"].shape, halves["b"].shape
        seen = (a[0], b[0]) if name == EMBEDDING else (*b[:-1], a[-1])
        if tuple(expected) != seen:
            yield Seen(f"its update has shape {seen}, the base's tensor {tuple(expected)}", name, seen=seen, expected=expected)


@rule(
    "G-LRA-9",
    "an adapted embedding where the base has one tensor for it and the output",
    Severity.ERR,
    Cost.BASE,
    why="llama.cpp applies it to the output too, where its halves lie the other way round, and aborts",
    fix="merge the adapter instead",
)
def tied_embedding(subject: GgufSubject) -> Iterator[Seen]:
    if EMBEDDING in subject.pairs and "output.weight" not in subject.against.shapes:
        yield Seen(f"{subject.against.name} has no output.weight", EMBEDDING)
