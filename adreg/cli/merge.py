"""`adreg merge`: fold adapters into their base or into one another, and prove the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.common import AllowOption, BaseOption, Json, Quiet, complete_reference, parse_size, registry, warn_yanked
from adreg.cli.merging import Precision, Target, Wish, base_of, carry_out, keep_record, merge_request
from adreg.cli.output import Output
from adreg.cli.permits import permit, remember
from adreg.errors import UsageError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.export.combine.settings import Combination


Refs = Annotated[list[str], typer.Argument(metavar="[REF[=SCALE]]...", autocompletion=complete_reference)]
To = Annotated[Target, typer.Option("--to", help="What to write.")]
Out = Annotated[Path, typer.Option("--output", "-o", help="A new folder, or a .gguf file.")]
Quant = Annotated[str | None, typer.Option("--quant", help="GGUF type, from f32 and q8_0 to q4_k_m. Default: f16.")]
Method = Annotated[str | None, typer.Option("--method", help="linear, cat, svd, ties, dare_ties or magnitude_prune.")]
Density = Annotated[float | None, typer.Option("--density", help="The share of each update that ties & co. keep.")]
Rank = Annotated[int | None, typer.Option("--rank", help="The rank of what svd or ties & co. make.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides what dare_ties drops.")]
ShardSize = Annotated[str | None, typer.Option("--max-shard-size", help="Such as 5GB. Default: the base's own shards.")]
Push = Annotated[str | None, typer.Option("--push", metavar="NAME", help="Push the adapter that --to adapter made.")]
Verify = Annotated[
    bool | None, typer.Option("--verify/--no-verify", help="Compare it with the adapter on its base. Default: if possible.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and write nothing.")]


def merge(
    output: Out,
    refs: Refs = [],  # noqa: B006 - typer copies it
    to: To = Target.GGUF,
    quant: Quant = None,
    precision: Precision = Precision.FAITHFUL,
    base: BaseOption = None,
    method: Method = None,
    density: Density = None,
    rank: Rank = None,
    seed: Seed = 0,
    max_shard_size: ShardSize = None,
    push: Push = None,
    verify: Verify = None,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fold adapters into their base: a GGUF for llama.cpp and Ollama, or a checkpoint folder. Or several into one adapter.

    Example: adreg merge lighthouse:prod --quant q4_k_m -o ./lighthouse-gguf

    Example: adreg merge formal=0.7 brief=0.3 --to adapter --method svd -o ./both --push both

    Example: adreg merge --base smollm2 -o ./smollm2.gguf
    """
    from adreg.export.plan import plan_merge

    out, found = Output(json, quiet), registry()
    versions = [(found.adapters.resolve(parse_reference(ref)), scale) for ref, scale in map(_scaled, refs)]
    plain = [version for version, _ in versions]
    warn_yanked(out, plain)
    if not (plain or base):
        raise UsageError("there is nothing to merge", "name adapters, or with --base a base alone")
    record = found.bases.get(base) if base else base_of(found, plain)
    permits = permit(found, record, plain, to.operation, allow)
    chosen = _combination(method, density, rank, seed)
    if to is Target.ADAPTER:
        from adreg.cli.combine import combine

        combine(found, versions, record, chosen, output, push, permits, dry_run, out)
        return
    if push is not None:
        raise UsageError(f"--to {to.value} makes nothing that can be pushed", "use --to adapter, or leave out --push")
    shard_bytes = parse_size(max_shard_size) if max_shard_size else None
    wish = Wish(output, to, quant, precision, shard_bytes, chosen, verify)
    plan = plan_merge(merge_request(found, record, versions, wish, out))
    for training in plan.quantised_trainings:
        moved = f"rounding to NF4 moves the weights by {training.rounding:.1%}, the adapter by {training.update:.1%}"
        out.note(f"{training.label} was trained on {training.base}, a quantised model: {moved}", "yellow")
    if dry_run:
        out.fields(plan.describe(), "output", [(key, str(value)) for key, value in plan.describe().items()])
        return
    remember(out, found, permits)
    merged = carry_out(plan, out)
    keep_record(found, plain, merged)
    out.done(merged.in_words(), merged.as_json(), "path")


def _scaled(text: str) -> tuple[str, float]:
    ref, equals, scale = text.partition("=")
    try:
        return ref, float(scale) if equals else 1.0
    except ValueError:
        raise UsageError(f"{scale!r} in {text!r} is no number", f"write {ref}=0.5") from None


def _combination(method: str | None, density: float | None, rank: int | None, seed: int) -> Combination:
    """How several adapters become one."""
    from adreg.export.combine.settings import Combination, Method

    methods = [known.value for known in Method]
    if method not in (None, *methods):
        raise UsageError(f"{method!r} is no method", f"choose one of {', '.join(methods)}")
    return Combination(Method(method or Method.LINEAR), density, rank, seed)
