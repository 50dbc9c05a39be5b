"""Mutations that rules of adreg/audit/rules/supply.py must find."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adreg.audit.subject import Subject
from tests.audit.mutations import WEIGHTS, Mutation
from tests.audit.mutations.file import write

TOKEN = b"hf_" + b"abcdefghij" * 4
RENAMED = frozenset({"F-HDR-1", "F-HDR-2", "F-HDR-3"})


def pickled() -> bytes:
    return pickle.dumps({"base_model.model.q_proj.lora_A.weight": [0.0] * 40})


def archived() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return held.getvalue()


def as_binary(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(archived())


def named(own: str, *others: str) -> Callable[[Subject], Subject]:
    def alter(subject: Subject) -> Subject:
        return replace(subject, registry=replace(subject.registry, name=own, names=(own, *others)))

    return alter


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("S-PKL-1", write(WEIGHTS, pickled()), RENAMED, label="a pickle renamed"),
    Mutation("S-PKL-1", write(WEIGHTS, archived()), RENAMED, label="a torch archive renamed"),
    Mutation("S-PKL-1", as_binary, label="adapter_model.bin"),
    Mutation("S-PKL-2", write("extra.pt", archived()), label="by its suffix"),
    Mutation("S-PKL-2", write("notes.md", pickled()), label="by its first bytes"),
    Mutation("S-PATH-1", write("notes.md."), label="ends in a dot"),
    Mutation("S-PATH-1", write("Adapter_Config.json"), label="differs in case"),
    Mutation("S-PATH-1", write("con.txt"), label="a device elsewhere"),
    Mutation("S-PATH-1", write("a\\b.txt"), label="a path elsewhere"),
    Mutation("S-SEC-1", write("README.md", b"login: " + TOKEN), label="a token"),
    Mutation("S-SEC-1", write("train.log", json.dumps({"out": "/home/alice/runs"}).encode()), label="a home"),
    Mutation("S-TYP-1", alter=named("team/lighthouse", "team/1ighthouse"), label="one letter looks alike"),
    Mutation("S-TYP-1", alter=named("team/light-house", "team/lighthouse"), label="a hyphen"),
)
