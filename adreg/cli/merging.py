"""A merge on the command line, step by step: what the registry knows of it, carrying it out, and remembering it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from adreg.cli.common import quiet_libraries
from adreg.cli.output import Output, size
from adreg.cli.progress import progress
from adreg.errors import UsageError

if TYPE_CHECKING:
    from adreg.export.combine.settings import Combination
    from adreg.export.plan import MergePlan
    from adreg.export.proof.verdict import Verification
    from adreg.export.request import MergeRequest
    from adreg.export.run import MergeResult
    from adreg.formats.bases.checkpoint import Checkpoint
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry

Weighted = Sequence[tuple["VersionRecord", float]]


class Target(StrEnum):
    """What comes out."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    GGUF_LORA = "gguf-lora"
    ADAPTER = "adapter"

    @property
    def operation(self) -> str:
        """What the audit's policy calls it."""
        return "merge" if self in (Target.SAFETENSORS, Target.ADAPTER) else "export"


class Precision(StrEnum):
    """faithful: one rounding, closest to the adapter. compat: as PEFT merge, save and convert would give."""

    FAITHFUL = "faithful"
    COMPAT = "compat"


@dataclass(frozen=True)
class Wish:
    """What the user asked for; with `verify` None what can be verified here is."""

    output: Path
    to: Target = Target.GGUF
    quant: str | None = None
    precision: Precision = Precision.FAITHFUL
    max_shard_size: int | None = None
    combination: Combination | None = None
    verify: bool | None = None


@dataclass(frozen=True)
class Merged:
    """A merge that was carried out: its plan, and its files with the proof if one was asked for."""

    plan: MergePlan
    result: MergeResult

    @property
    def proof(self) -> Verification | None:
        return self.result.verification

    def as_json(self) -> dict[str, Any]:
        files = [{"path": str(file.path), "size": file.size, "sha256": file.sha256} for file in self.result.files]
        proof = self.proof.as_json() if self.proof else None
        return {**self.plan.describe(), "path": str(self.result.main.path), "files": files, "verification": proof}

    def in_words(self) -> str:
        main = self.result.main
        told = f"wrote {main.path} ({size(main.size)}, sha256 {main.sha256[:12]})"
        return "; ".join([told, *proof_lines(self.proof)]) if self.proof else told


def merge_request(found: Registry, record: BaseRecord, versions: Weighted, wish: Wish, out: Output) -> MergeRequest:
    """Check that the base's files are still those of its card, and say what is to be merged. The caller asks the audit."""
    from adreg.export.changes.source import Source
    from adreg.export.combine.settings import Combination
    from adreg.export.request import MergeRequest
    from adreg.formats.adapters.others import adapter_of

    checkpoint = found.bases.current(record, progress(out.human))
    return MergeRequest(
        base=checkpoint,
        sources=tuple(
            Source(adapter_of(found.adapters.inspect(version)), scale, version.reference) for version, scale in versions
        ),
        target=cast("Literal['safetensors', 'gguf', 'gguf-lora']", wish.to.value),  # an adapter is combined, not merged
        output=wish.output,
        quant=wish.quant,
        precision=wish.precision.value,
        name="-".join([record.name, *(version.adapter.replace("/", "-") for version, _ in versions)]),
        base_name=record.name,
        chat_template=_template(found, versions),
        provenance=_provenance(record, versions),
        max_shard_size=wish.max_shard_size,
        combination=wish.combination or Combination(),
        verify=_verified(checkpoint, wish, out),
    )


def carry_out(plan: MergePlan, out: Output) -> Merged:
    """Write the plan; what fails its verification is set aside as `.rejected`."""
    from adreg.export.run import run_merge

    quiet_libraries()
    return Merged(plan, run_merge(plan, progress(out.human)))


def keep_record(found: Registry, versions: Sequence[VersionRecord], merged: Merged) -> None:
    """Remember the artifact with every version that went into it."""
    from adreg.registry.artifacts import Derived

    main, plan = merged.result.main, merged.plan.describe()
    proof = merged.proof.as_json() if merged.proof else None
    derived = Derived(plan["target"], str(main.path.absolute()), f"sha256:{main.sha256}", main.size, plan, proof)
    weights = [source["weight"] for source in plan["adapters"]]
    found.artifacts.add(list(zip(versions, weights, strict=True)), derived)


def base_of(found: Registry, versions: Sequence[VersionRecord]) -> BaseRecord:
    """The one registered base that all `versions` were trained on."""
    names = {version.base for version in versions}
    name = names.pop()
    if names:
        raise UsageError("these adapters were trained on different bases", "merge adapters of one base, or give --base")
    if name is None:
        raise UsageError(f"the base of {versions[0].reference} is not registered", "adreg base add FOLDER, or give --base")
    return found.bases.get(name)


def proof_lines(proof: Verification) -> list[str]:
    """What the verification showed, in words."""
    effect = "" if proof.adapter_effect is None else f"; the adapter's effect arrives at {proof.adapter_effect:.2f}"
    told = [f"llama.cpp: {proof.tokenization_differences} of {proof.lines} lines tokenised differently"] if proof.lines else []
    return [
        *told,
        f"|Δ log p| at {proof.positions} positions: max {proof.max_delta_logprob:.4f}, mean {proof.mean_delta_logprob:.4f}, "
        f"KL {proof.mean_divergence:.5f}; likeliest token the same at {proof.top1_agreement:.0%}{effect}",
    ]


def _verified(base: Checkpoint, wish: Wish, out: Output) -> bool:
    """Whether to verify; where nobody said and it cannot be done here, the reason is told."""
    from adreg.export.proof.verify import obstacle

    if wish.verify is not None:
        return wish.verify
    found = obstacle(base, wish.to.value)
    if found:
        out.note(f"not verified: {found}", "yellow")
    return found is None


def _template(found: Registry, versions: Weighted) -> str | None:
    """The chat template that the adapters were trained with, if all carry the same one."""
    digests = {version.files.get("chat_template.jinja") for version, _ in versions} - {None}
    if len(digests) > 1:
        raise UsageError("these adapters were trained with different chat templates", "merge them one by one")
    digest = next(iter(digests), None)
    return found.blobs.path(digest).read_text(encoding="utf-8") if digest else None


def _provenance(record: BaseRecord, versions: Weighted) -> dict[str, str]:
    ids = {f"base.{name}": value for name, value in vars(record.card.ids).items() if value}
    adapters = {f"adapter.{index}.digest": version.digest for index, (version, _) in enumerate(versions)}
    names = {f"adapter.{index}.reference": version.reference for index, (version, _) in enumerate(versions)}
    return {"base.name": record.name, **ids, **adapters, **names}
