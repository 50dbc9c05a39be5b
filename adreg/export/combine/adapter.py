"""Writes several adapters as one new PEFT adapter: factors, configuration, and a record of what it was made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adreg import __version__
from adreg.errors import UsageError
from adreg.export.changes.source import Source
from adreg.export.combine.factors import LowRank
from adreg.export.combine.modules import JoinedModule, join_modules
from adreg.export.combine.settings import Combination
from adreg.formats.adapters.adapter import CONFIG, RECORD, WEIGHTS
from adreg.formats.adapters.keys import PREFIX
from adreg.formats.atomic import atomic_folder
from adreg.formats.dtypes import Float32
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.tokenizer import FILES as TOKENIZER_FILES
from adreg.progress import SILENT, Progress

CARRIED = ("peft_type", "task_type", "base_model_name_or_path", "revision", "fan_in_fan_out")
Update = tuple[JoinedModule, LowRank]
SAME = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True)
class CombinePlan:
    """A new adapter that can be printed and written. `provenance` goes into its adreg.json as it is: `base` and
    `parents` there are what a push of the folder records."""

    sources: tuple[Source, ...]
    combination: Combination
    output: Path
    modules: tuple[JoinedModule, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The plan in plain values."""
        return {
            "target": "adapter",
            "output": str(self.output),
            "adapters": [{"label": source.label, "weight": source.weight} for source in self.sources],
            "modules": len(self.modules),
            **self.combination.record(),
        }


@dataclass(frozen=True)
class Combined:
    """The folder that was written, the ranks in it, and the smallest share of a module's update that its rank holds."""

    folder: Path
    ranks: tuple[int, ...]
    held: float


def plan_combine(
    sources: Sequence[Source], combination: Combination, output: Path, provenance: Mapping[str, Any] | None = None
) -> CombinePlan:
    """Check everything that can be known without reading factors. Raises the errors of `join_modules`, and `UsageError`
    for fewer than two adapters."""
    if len(sources) < 2:
        raise UsageError("one adapter alone is nothing to combine", "name two or more: A=0.7 B=0.3")
    return CombinePlan(tuple(sources), combination, output, join_modules(sources), provenance or {})


def write_combined(plan: CombinePlan, progress: Progress = SILENT) -> Combined:
    """Compute and write the adapter of `plan`; the folder appears whole or not at all. Factors are float32, and their
    scaling is 1. Memory: the new factors, and one dense update for a thinning method."""
    with atomic_folder(plan.output) as folder:
        updates: list[Update] = []
        with progress.task("combine", len(plan.modules)) as task:
            for module in plan.modules:
                updates.append((module, module.combined(plan.combination)))
                task.advance(1, module.name)
        _write_factors(folder / WEIGHTS, updates)
        config = combined_config(plan.sources, {module.name: update.rank for module, update in updates})
        _write_json(folder / CONFIG, config)
        _write_json(folder / RECORD, {**plan.provenance, "combined": _record(plan)})
        for name, text in shared_files(plan.sources).items():
            (folder / name).write_bytes(text)
    ranks = tuple(sorted({update.rank for _, update in updates}))
    return Combined(plan.output, ranks, min(update.held for _, update in updates))


def combined_config(sources: Sequence[Source], ranks: Mapping[str, int]) -> JsonObject:
    """adapter_config.json of an adapter with `ranks` by module name, each of scaling 1: alpha is the rank, everywhere."""
    raws = [source.adapter.config.raw for source in sources]
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    same = all(raw.get(key) == raws[0].get(key) for raw in raws for key in SAME)
    targets = {key: raws[0].get(key) for key in SAME} if same else {"target_modules": sorted(ranks)}
    own = {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others, "use_rslora": False}
    return {key: raws[0].get(key) for key in CARRIED} | targets | own | {"bias": "none", "inference_mode": True}


def shared_files(sources: Sequence[Source]) -> dict[str, bytes]:
    """The tokenizer files and chat template that all the adapters carry alike."""
    folders = [source.adapter.config.path.parent for source in sources]
    found: dict[str, bytes] = {}
    for name in TOKENIZER_FILES:
        files = [folder / name for folder in folders if (folder / name).is_file()]
        contents = {file.read_bytes() for file in files}
        if len(files) == len(folders) and len(contents) == 1:
            found[name] = contents.pop()
    return found


def _write_factors(path: Path, updates: Sequence[Update]) -> None:
    tensors = {key: matrix for module, update in updates for key, matrix in _tensors(module, update)}
    specs = [TensorSpec(name, "F32", matrix.shape) for name, matrix in tensors.items()]
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for matrix in tensors.values():
            writer.write(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
        writer.finish()


def _tensors(module: JoinedModule, update: LowRank) -> Iterator[tuple[str, Float32]]:
    """A and B under PEFT's names."""
    a, b = ("lora_embedding_A", "lora_embedding_B") if module.embedding else ("lora_A.weight", "lora_B.weight")
    yield f"{PREFIX}{module.name}.{a}", update.right
    yield f"{PREFIX}{module.name}.{b}", update.left


def _record(plan: CombinePlan) -> dict[str, Any]:
    adapters = [{"label": source.label, "weight": source.weight} for source in plan.sources]
    return {"version": __version__, "adapters": adapters, **plan.combination.record()}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
