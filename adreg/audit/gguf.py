"""A GGUF file as the audit sees it, a model or a LoRA, with what is known around it; and its judge. Knows no registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import AuditReport, Verdict, worst_first
from adreg.audit.rule import Cost, Rule
from adreg.audit.run import SPEEDS, Speed
from adreg.errors import FormatError
from adreg.formats.gguf.base import GgufTokenizer
from adreg.formats.gguf.header import GgufFile, read_gguf
from adreg.formats.gguf.tensors import GgufTensors
from adreg.formats.safetensors import TensorView

WEIGHTS_ID = "adreg.base.weights_id"


@dataclass(frozen=True)
class GgufFacts:
    """What a registry knows around a GGUF file: the base whose weights' id it carries, the references of the adapter
    digests that it carries, and the digest that was recorded when adreg wrote a file here (empty: none did)."""

    base: BaseCard | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    recorded: str = ""


@dataclass(frozen=True)
class GgufSubject:
    """What is audited. `file` is None where the header breaks the format, and `problem` says how. `base` is what a
    LoRA is to be applied to; `facts` is None where no registry was asked."""

    path: Path
    file: GgufFile | None
    problem: FormatError | None = None
    base: GgufTensors | None = None
    facts: GgufFacts | None = None
    target: str = "adreg"

    @property
    def fields(self) -> Mapping[str, Any]:
        return {} if self.file is None else self.file.fields

    @property
    def tensors(self) -> Mapping[str, TensorView]:
        return {} if self.file is None else self.file.tensors

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def is_lora(self) -> bool:
        return self.file is not None and self.fields.get("general.type") == "adapter"

    @property
    def is_model(self) -> bool:
        return self.file is not None and self.fields.get("general.type", "model") == "model"

    @cached_property
    def tokenizer(self) -> GgufTokenizer:
        return GgufTokenizer(self.path, dict(self.fields))

    @cached_property
    def pairs(self) -> Mapping[str, Mapping[str, TensorView]]:
        """A LoRA's tensors by the base tensor and the half (`a`, `b`) that they are."""
        found: dict[str, dict[str, TensorView]] = {}
        for name, view in self.tensors.items() if self.is_lora else ():
            stem, _, end = name.rpartition(".")
            if end in ("lora_a", "lora_b"):
                found.setdefault(stem, {})[end[-1]] = view
        return found

    @property
    def against(self) -> GgufTensors:
        """The base at hand, for rules of cost `base`, which run only where there is one."""
        if self.base is None:
            raise LookupError("a rule of another cost than `base` asked for the base")
        return self.base

    def text(self, key: str) -> str:
        """The text in the field `key`, empty where there is none."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    @property
    def verdict(self) -> Verdict:
        """For a LoRA that carries its base's id: the base at hand against it."""
        carried, there = self.text(WEIGHTS_ID), self.base.weights_id if self.base else None
        if not (self.is_lora and carried and there):
            return Verdict.UNKNOWN
        return Verdict.EXACT if carried == there else Verdict.DIFFERENT


def inspect_gguf(
    path: Path, base: GgufTensors | None = None, facts: GgufFacts | None = None, target: str = "adreg"
) -> GgufSubject:
    """Look at the file at `path`, sound or not."""
    try:
        return GgufSubject(path, read_gguf(path), None, base, facts, target)
    except FormatError as error:
        return GgufSubject(path, None, error, base, facts, target)


def tensors_of(path: Path) -> GgufTensors:
    """What of the model in the file at `path` a LoRA is compared with. Raises `FormatError`."""
    file = read_gguf(path)
    carried = file.fields.get(WEIGHTS_ID)
    shapes = {name: view.shape for name, view in file.tensors.items()}
    merged = any(key.startswith("adreg.adapter.") for key in file.fields)
    architecture = str(file.fields.get("general.architecture"))
    return GgufTensors(path.name, architecture, shapes, carried if isinstance(carried, str) and not merged else None)


def judge_gguf(subject: GgufSubject, speed: Speed = Speed.FULL) -> AuditReport:
    """Every rule for GGUF files that `speed` and what is known of `subject` allow."""
    from adreg.audit.catalogue import GGUF_RULES

    reasons = {rule.id: _skip(rule, subject, speed) for rule in GGUF_RULES}
    run = [rule for rule in GGUF_RULES if not reasons[rule.id]]
    return AuditReport(
        verdict=subject.verdict,
        findings=worst_first(finding for rule in run for finding in rule.findings(subject)),
        checked=tuple(rule.id for rule in run),
        skipped=tuple((id_, reason) for id_, reason in reasons.items() if reason),
        target=subject.target,
    )


def _skip(rule: Rule[GgufSubject], subject: GgufSubject, speed: Speed) -> str:
    if SPEEDS[rule.cost] > speed:
        return "needs a full audit"
    if rule.cost is Cost.BASE and not (subject.base is not None and subject.is_lora):
        return "needs a LoRA and its base"
    return ""
