"""`adreg merge`: fold adapters into their base, as safetensors or GGUF, and prove the result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import AllowOption, BaseOption, Json, Quiet, complete_reference, quiet_libraries, registry, warn_yanked
from adreg.cli.output import Output, size
from adreg.cli.permits import permit, remember
from adreg.cli.progress import progress
from adreg.errors import UsageError, VerificationFailed
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.export.plan import MergePlan, MergeRequest
    from adreg.export.run import MergeResult
    from adreg.export.verify import Verification
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry


class Target(StrEnum):
    """What comes out."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"


class Precision(StrEnum):
    """faithful: one rounding, closest to the adapter. compat: as PEFT merge, save and convert would give."""

    FAITHFUL = "faithful"
    COMPAT = "compat"


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    output: Path
    to: Target = Target.GGUF
    quant: str | None = None
    precision: Precision = Precision.FAITHFUL


@dataclass(frozen=True)
class Merged:
    """A merge that was carried out: its plan, its files, and the proof if one was asked for."""

    plan: MergePlan
    result: MergeResult
    verification: Verification | None

    def as_json(self) -> dict[str, Any]:
        files = [{"path": str(file.path), "size": file.size, "sha256": file.sha256} for file in self.result.files]
        proof = self.verification.as_json() if self.verification else None
        return {**self.plan.describe(), "path": str(self.result.main.path), "files": files, "verification": proof}


Refs = Annotated[list[str], typer.Argument(metavar="REF[=SCALE]...", autocompletion=complete_reference)]
To = Annotated[Target, typer.Option("--to", help="What to write.")]
Out = Annotated[Path, typer.Option("--output", "-o", help="A new folder, or a .gguf file.")]
Quant = Annotated[str | None, typer.Option("--quant", help="GGUF type: f32, f16, bf16 or q8_0.")]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Run a GGUF in llama.cpp against the adapter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and write nothing.")]


def merge(
    refs: Refs,
    output: Out,
    to: To = Target.GGUF,
    quant: Quant = None,
    precision: Precision = Precision.FAITHFUL,
    base: BaseOption = None,
    verify: Verify = True,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fold adapters into their base: a checkpoint folder, or a GGUF for llama.cpp and Ollama.

    Example: adreg merge lighthouse:prod --to gguf --quant q8_0 -o ./lighthouse-gguf
    """
    from adreg.export.plan import plan_merge

    out, found = Output(json, quiet), registry()
    scaled = [_scaled(text) for text in refs]
    versions = [(found.adapters.resolve(parse_reference(ref)), scale) for ref, scale in scaled]
    warn_yanked(out, [version for version, _ in versions])
    record = found.bases.get(base) if base else base_of(found, [version for version, _ in versions])
    plain = [version for version, _ in versions]
    permits = permit(found, record, plain, "export" if to is Target.GGUF else "merge", allow)
    request = merge_request(found, record, versions, Wish(output, to, quant, precision), out)
    plan = plan_merge(request)
    if dry_run:
        out.fields(plan.describe(), "output", [(key, str(value)) for key, value in plan.describe().items()])
        return
    remember(out, found, permits)
    merged = carry_out(plan, verify and to is Target.GGUF, out)
    keep_record(found, plain, merged)
    out.done(_told(merged), merged.as_json(), "path")


def merge_request(
    found: Registry,
    record: BaseRecord,
    versions: list[tuple[VersionRecord, float]],
    wish: Wish,
    out: Output,
) -> MergeRequest:
    """Check that the base's files are still those of its card, and say what is to be merged. The caller asks the audit."""
    from adreg.export.plan import MergeRequest
    from adreg.export.targets import Source

    checkpoint = found.bases.current(record, progress(out.human))
    return MergeRequest(
        base=checkpoint,
        sources=tuple(Source(found.adapters.open(version), scale, version.reference) for version, scale in versions),
        target=wish.to.value,
        output=wish.output,
        quant=wish.quant,
        precision=wish.precision.value,
        name="-".join([record.name, *(version.adapter.replace("/", "-") for version, _ in versions)]),
        base_name=record.name,
        chat_template=_template(found, versions),
        provenance=_provenance(record, versions),
    )


def carry_out(plan: MergePlan, verify: bool, out: Output) -> Merged:
    """Write the plan; a GGUF that fails its verification is removed again."""
    from adreg.export.extras import need
    from adreg.export.run import run_merge
    from adreg.export.verify import verify_gguf

    if verify:
        need("llamacpp", "xllamacpp")
    quiet_libraries()
    result = run_merge(plan, progress(out.human))
    if not verify:
        return Merged(plan, result, None)
    request = plan.request
    proof = verify_gguf(plan.path, request.base, request.sources, request.chat_template, progress(out.human))
    if not proof.passed:
        for file in result.files:
            file.path.unlink(missing_ok=True)
        raise VerificationFailed(f"{plan.path} was removed: {'; '.join(proof.failures)}")
    return Merged(plan, result, proof)


def keep_record(found: Registry, versions: list[VersionRecord], merged: Merged) -> None:
    """Remember the artifact with every version that went into it."""
    from adreg.registry.artifacts import Derived

    main, plan = merged.result.main, merged.plan.describe()
    proof = merged.verification.as_json() if merged.verification else None
    derived = Derived(plan["target"], str(main.path.absolute()), f"sha256:{main.sha256}", main.size, plan, proof)
    weights = [source["weight"] for source in plan["adapters"]]
    found.artifacts.add(list(zip(versions, weights, strict=True)), derived)


def base_of(found: Registry, versions: list[VersionRecord]) -> BaseRecord:
    """The one registered base that all `versions` were trained on."""
    names = {version.base for version in versions}
    name = names.pop()
    if names:
        raise UsageError("these adapters were trained on different bases", "merge adapters of one base, or give --base")
    if name is None:
        raise UsageError(f"the base of {versions[0].reference} is not registered", "adreg base add FOLDER, or give --base")
    return found.bases.get(name)


def _scaled(text: str) -> tuple[str, float]:
    ref, equals, scale = text.partition("=")
    try:
        return ref, float(scale) if equals else 1.0
    except ValueError:
        raise UsageError(f"{scale!r} in {text!r} is no number", f"write {ref}=0.5") from None


def _template(found: Registry, versions: list[tuple[VersionRecord, float]]) -> str | None:
    """The chat template that the adapters were trained with, if all carry the same one."""
    digests = {version.files.get("chat_template.jinja") for version, _ in versions} - {None}
    if len(digests) > 1:
        raise UsageError("these adapters were trained with different chat templates", "merge them one by one")
    digest = next(iter(digests), None)
    return found.blobs.path(digest).read_text(encoding="utf-8") if digest else None


def _provenance(record: BaseRecord, versions: list[tuple[VersionRecord, float]]) -> dict[str, str]:
    ids = {f"base.{name}": value for name, value in vars(record.card.ids).items() if value}
    adapters = {f"adapter.{index}.digest": version.digest for index, (version, _) in enumerate(versions)}
    names = {f"adapter.{index}.reference": version.reference for index, (version, _) in enumerate(versions)}
    return {"base.name": record.name, **ids, **adapters, **names}


def _told(merged: Merged) -> str:
    main = merged.result.main
    told = f"wrote {main.path} ({size(main.size)}, sha256 {main.sha256[:12]})"
    return "; ".join([told, *proof_lines(merged.verification)]) if merged.verification else told


def proof_lines(proof: Verification) -> list[str]:
    """What llama.cpp showed, in words."""
    effect = "" if proof.adapter_effect is None else f"; the adapter's effect arrives at {proof.adapter_effect:.2f}"
    return [
        f"llama.cpp: {proof.tokenization_differences} of {proof.lines} lines tokenised differently",
        f"|Δ log p| of the top 50 tokens at {proof.positions} positions: max {proof.max_delta_logprob:.4f}, "
        f"mean {proof.mean_delta_logprob:.4f}; likeliest token the same at {proof.top1_agreement:.0%}{effect}",
    ]
