"""Mutations that rules of adreg/audit/rules/file.py and folder.py must find."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from adreg.audit.run import Speed
from adreg.audit.subject import Subject
from tests.audit.clean import Clean
from tests.audit.mutations import CONFIG, WEIGHTS, Array, Mutation, header, join, plain, split, tensors

BROKEN = frozenset({"F-EMP-1", "K-KEY-1", "K-KEY-2", "K-KEY-4", "B-SHP-4"})


def entries(found: dict[str, Any]) -> list[str]:
    return [name for name in found if name != "__metadata__"]


def with_text(change: Any) -> Any:
    """Change the header's text."""

    def apply(folder: Path) -> None:
        found, payload = split(folder)
        join(folder, change(json.dumps(found)).encode(), payload)

    return apply


def with_payload(change: Any) -> Any:
    def apply(folder: Path) -> None:
        found, payload = split(folder)
        join(folder, json.dumps(found).encode(), change(payload))

    return apply


def long_header(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + raw[8:])


def twice(text: str) -> str:
    name, entry = next((name, entry) for name, entry in json.loads(text).items() if name != "__metadata__")
    return f"{text[:-1]}, {json.dumps(name)}: {json.dumps(entry)}}}"


def extra_field(found: dict[str, Any]) -> None:
    found[entries(found)[0]]["device"] = "cuda"


def odd_metadata(found: dict[str, Any]) -> None:
    found["__metadata__"] = {"format": ["pt"]}


def many(found: dict[str, Any]) -> None:
    end = max(found[name]["data_offsets"][1] for name in entries(found))
    for number in range(100_001):
        found[f"base_model.model.m{number}.lora_A.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def longer_shape(found: dict[str, Any]) -> None:
    found[entries(found)[0]]["shape"][0] += 1


def hole(found: dict[str, Any]) -> None:
    last = max(entries(found), key=lambda name: found[name]["data_offsets"])
    found[last]["data_offsets"] = [place + 4 for place in found[last]["data_offsets"]]


def rename_first(change: Any) -> Any:
    def apply(found: dict[str, Any]) -> None:
        name = entries(found)[0]
        found[change(name)] = found.pop(name)

    return header(apply)


def unknown_type(found: dict[str, Any]) -> None:
    found[entries(found)[0]]["dtype"] = "F7"


def integers(loaded: dict[str, Array]) -> None:
    for name in [name for name in sorted(loaded) if "lm_head.weight" not in name][:1]:
        loaded[name] = loaded[name].astype(np.int32)


def flattened(loaded: dict[str, Array]) -> None:
    for name in [name for name in loaded if "lora_" in name][:2]:
        loaded[name] = loaded[name].reshape(-1)


def emptied(loaded: dict[str, Array]) -> None:
    for name in [name for name in loaded if "lora_" in name][:2]:
        loaded[name] = np.zeros((0,), np.float32)


def nothing_left(folder: Path) -> None:
    join(folder, b'{"__metadata__":{"format":"pt"}}', b"")


def huge(folder: Path) -> None:
    """Nine gigabytes that take no space: the tensor is a hole of the file system."""
    found, payload = split(folder)
    end = max(found[name]["data_offsets"][1] for name in entries(found))
    size = 9_000_000_000
    found["base_model.model.big.lora_A.weight"] = {"dtype": "F32", "shape": [4, size // 16], "data_offsets": [end, end + size]}
    join(folder, json.dumps(found).encode(), payload)
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + size)


def with_text_inside(found: dict[str, Any]) -> None:
    found["__metadata__"] = {**found.get("__metadata__", {}), "note": "words " * 200_000}


def with_a_model_inside(loaded: dict[str, Array]) -> None:
    loaded["blk.0.ffn_up"] = np.ones((512, 512), np.float32)


def written_meanwhile(subject: Subject) -> Subject:
    """As if somebody saved the adapter again behind the back of the audit."""
    path = subject.inspection.files[WEIGHTS]
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    return subject


def removed_meanwhile(subject: Subject) -> Subject:
    subject.inspection.files[WEIGHTS].unlink()
    return subject


def linked(folder: Path) -> None:
    (folder / CONFIG).rename(folder.parent / "elsewhere.json")
    (folder / CONFIG).symlink_to(folder.parent / "elsewhere.json")


def piped(folder: Path) -> None:
    os.mkfifo(folder / "notes.md")


def write(name: str, content: bytes = b"{}") -> Any:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return apply


def removed(name: str) -> Any:
    def apply(folder: Path) -> None:
        (folder / name).unlink()

    return apply


def low_rank(clean: Clean) -> bool:
    return clean.recipe.family == "LoraConfig"


def also(*rules: str) -> frozenset[str]:
    return BROKEN | set(rules)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("F-HDR-1", long_header, label="claims a terabyte"),
    Mutation("F-HDR-2", with_text(lambda text: f" {text}"), label="begins with a space"),
    Mutation("F-HDR-2", with_text(lambda text: f"{text}\n"), label="ends in a newline"),
    Mutation("F-HDR-3", with_text(twice), label="a tensor twice"),
    Mutation("F-HDR-3", with_text(lambda text: text.replace("[", "[[", 1)), label="no JSON"),
    Mutation("F-HDR-4", header(extra_field), BROKEN, label="an unknown field"),
    Mutation("F-HDR-4", header(odd_metadata), label="metadata that is no text"),
    Mutation("F-HDR-5", header(many), applies_to=plain, speed=Speed.HEADER),
    Mutation("F-OFF-1", with_payload(lambda payload: payload[:-3]), label="cut short"),
    Mutation("F-OFF-1", with_payload(lambda payload: payload + b"PK\x03\x04"), label="another file behind it"),
    Mutation("F-OFF-1", header(hole), label="a hole"),
    Mutation("F-OFF-2", header(longer_shape), BROKEN),
    Mutation("F-NAM-1", rename_first(lambda name: f"../{name}"), BROKEN, label="leads out"),
    Mutation("F-NAM-1", rename_first(lambda name: f"{name}\u202e"), BROKEN, label="invisible"),
    Mutation("F-NAM-1", rename_first(lambda name: ""), BROKEN, label="empty"),
    Mutation("F-DTY-1", header(unknown_type), BROKEN, label="unknown"),
    Mutation("F-DTY-1", tensors(integers), also("Q-DTY-1", "B-SHP-2"), label="whole numbers"),
    Mutation("F-SHP-1", tensors(flattened), also("B-SHP-4"), low_rank, label="flattened"),
    Mutation("F-SHP-1", tensors(emptied), also("B-SHP-4"), low_rank, label="empty"),
    Mutation("F-MUT-1", alter=written_meanwhile, label="written"),
    Mutation("F-MUT-1", alter=removed_meanwhile, label="removed"),
    Mutation("F-EMP-1", nothing_left),
    Mutation("F-SIZ-1", huge, also("B-SHP-1", "B-SHP-2", "K-CFG-3", "Q-DTY-1"), plain, speed=Speed.HEADER),
    Mutation("F-SIZ-1", header(with_text_inside), label="a book in its metadata"),
    Mutation("F-SIZ-1", tensors(with_a_model_inside), frozenset({"K-KEY-1"}), label="another model's tensor"),
    Mutation("F-DIR-1", linked, label="a link"),
    Mutation("F-DIR-1", piped, label="a pipe"),
    Mutation("F-DIR-1", removed(CONFIG), also("B-SHP-2", "B-DUP-1"), label="no configuration"),
    Mutation("F-DIR-1", removed(WEIGHTS), label="no weights"),
    Mutation("F-DIR-2", write("model.safetensors")),
    Mutation("F-DIR-3", write("optimizer.pt", b"PK\x03\x04"), label="optimizer"),
    Mutation("F-DIR-3", write("rng_state_0.pth", b"\x80\x02}"), label="random state"),
    Mutation("F-DIR-4", write("modeling_llama.py", b"import os"), label="Python"),
    Mutation("F-DIR-4", write("README.rst", b"\x7fELF\x02"), label="a program by another name"),
)
