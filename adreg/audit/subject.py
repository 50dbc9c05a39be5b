"""What the rules see: one adapter with everything that is known about it, as plain data. Knows no registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import Verdict
from adreg.audit.kinship import Kinship, kinships
from adreg.audit.owntokenizer import OwnTokenizer, read_own_tokenizer
from adreg.errors import FormatError
from adreg.formats.adapters.adapter import CONFIG, RECORD, WEIGHTS, Adapter, LoraModule
from adreg.formats.adapters.family import Family
from adreg.formats.adapters.inspection import Inspection, inspect_files
from adreg.formats.adapters.spectra import Spectrum
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.dtypes import FLOATS, largest_magnitude
from adreg.formats.safetensors import TensorView
from adreg.formats.strictjson import JsonObject, parse_object
from adreg.formats.text.tokenizer import TokenizerFiles

WINDOW_BYTES = 1 << 20


RECORD_LIMIT = 50_000_000


@dataclass(frozen=True)
class Neighbour:
    """Another adapter of the same registry: its reference, the SHA-256 of its weights file, the ids of the base it was
    trained on, and where its two files lie, by name."""

    reference: str
    weights_sha256: str
    trained_on: BaseIds | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def adapter(self) -> Adapter | None:
        """Its plain LoRA view, or None where it is anything else or its files are not at hand; opened when asked for."""
        if not {CONFIG, WEIGHTS} <= set(self.files):
            return None
        return inspect_files({name: self.files[name] for name in (CONFIG, WEIGHTS)}).adapter


@dataclass(frozen=True)
class ParentFact:
    """A parent that the adapter declares; `found` is what the registry knows of it, None where it knows nothing."""

    reference: str
    relation: str
    found: Neighbour | None = None
    ancestor_of_itself: bool = False


@dataclass(frozen=True)
class RegistryFacts:
    """What the registry knows around an adapter. Empty for a folder that nobody pushed."""

    name: str = ""
    names: tuple[str, ...] = ()
    weights_sha256: str = ""
    neighbours: tuple[Neighbour, ...] = ()
    parents: tuple[ParentFact, ...] = ()


@dataclass(frozen=True)
class PromptProbe:
    """What one fixed prompt gave, base against adapter, with eager attention: the divergence of the next-token
    distributions and the largest change of a log probability, both in nats, the mean log probability of the prompt's
    tokens under each, and whether a logit was NaN."""

    prompt: str
    divergence: float
    largest_change: float
    base_log_probability: float
    adapter_log_probability: float
    has_nan: bool


@dataclass(frozen=True)
class Subject:
    """What is audited. `trained_on` are the ids recorded at training (None where nobody recorded them), `base` is the
    card of the base at hand, `run` the recorded run, `weights` and `probe` what only a deep audit loads;
    `probe_failure` is why PEFT would not load it on the base."""

    inspection: Inspection
    trained_on: BaseIds | None = None
    base: BaseCard | None = None
    run: JsonObject | None = None
    target: str = "adreg"
    registry: RegistryFacts = field(default_factory=RegistryFacts)
    tokenizer: TokenizerFiles | None = None
    weights: Checkpoint | None = None
    probe: tuple[PromptProbe, ...] = ()
    probe_failure: str = ""

    @property
    def raw(self) -> JsonObject:
        """adapter_config.json as it is written."""
        return self.inspection.raw

    @cached_property
    def record(self) -> JsonObject:
        """How it was made: the recorded run, or else adreg.json beside it; empty where there is none that can be read."""
        text = None if self.run else self.inspection.read(RECORD, RECORD_LIMIT)
        try:
            return self.run or (parse_object(text, Path(RECORD), "S-PRV-1") if text else {})
        except FormatError:
            return {}

    @property
    def family(self) -> Family:
        return self.inspection.family

    @property
    def tensors(self) -> Mapping[str, TensorView]:
        """Names, types and shapes; a rule of cost `tensors` may read their bytes."""
        return self.inspection.file or {}

    @cached_property
    def magnitudes(self) -> dict[str, float]:
        """The largest absolute value of each float tensor, NaN or infinite where one is not finite; reads all, once."""
        return {name: _largest(view) for name, view in self.tensors.items() if view.dtype in FLOATS}

    @property
    def adapter(self) -> Adapter | None:
        """The plain LoRA view that merge and serve use, or None where the files are anything else."""
        return self.inspection.adapter

    @property
    def lora(self) -> tuple[LoraModule, ...]:
        """The modules of the plain LoRA view, with their scaling."""
        return () if self.adapter is None else self.adapter.modules

    @cached_property
    def own_tokenizer(self) -> OwnTokenizer:
        """What the tokenizer files of the adapter say, as far as they can be read."""
        return read_own_tokenizer(self.tokenizer)

    @property
    def card(self) -> BaseCard:
        """The base's card, for rules of cost `base`, which run only where there is one."""
        if self.base is None:
            raise LookupError("a rule of another cost than `base` asked for the base card")
        return self.base

    @property
    def spectra(self) -> tuple[Spectrum, ...]:
        """The singular values of every finite update, read once."""
        return self.inspection.spectra

    @cached_property
    def kinships(self) -> dict[str, Kinship]:
        """How like each neighbour it is, by reference; reads the neighbours' tensors, once."""
        if self.adapter is None:
            return {}
        opened = ((one.reference, one.adapter) for one in self.registry.neighbours)
        return kinships(self.adapter, {reference: adapter for reference, adapter in opened if adapter})

    @cached_property
    def verdict(self) -> Verdict:
        """The base at hand against the ids recorded at training, by content."""
        return base_verdict(self.base, self.trained_on)

    def problems(self, rule: str) -> tuple[FormatError, ...]:
        """What breaks a format and is forbidden by `rule`."""
        return tuple(problem for problem in self.inspection.problems if problem.rule == rule)

    def name_of(self, path: Path) -> str:
        """The name of a file as people know it."""
        return self.inspection.name_of(path)


def base_verdict(base: BaseCard | None, trained_on: BaseIds | None) -> Verdict:
    """How `base` relates to the base whose ids were recorded at training."""
    if base is None or trained_on is None:
        return Verdict.UNKNOWN
    now, then = base.ids, trained_on
    if now.weights_id == then.weights_id and now.cfg_id == then.cfg_id:
        return Verdict.EXACT
    if now.cfg_id == then.cfg_id and (now.content_id == then.content_id or now.values_id == then.values_id):
        return Verdict.SAME_VALUES
    if base.relative(then.weights_id):
        return Verdict.QUANT_OF
    return Verdict.SAME_ARCH if now.arch_id == then.arch_id else Verdict.DIFFERENT


def _largest(view: TensorView) -> float:
    found = 0.0
    for window in view.windows(WINDOW_BYTES):
        largest = largest_magnitude(window, view.dtype)
        found = largest if math.isnan(largest) else max(found, largest)  # NaN stays: nothing is larger
    return found
