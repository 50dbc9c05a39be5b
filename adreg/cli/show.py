"""`adreg show`: one version, with everything that is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, Ref, registry
from adreg.cli.output import Output, age, print_line, size
from adreg.cli.terminal import coloured_stdout, terminal_width
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.registry.manifest import Parent
    from adreg.registry.records import ArtifactRecord, BaseRecord, VersionRecord
    from adreg.registry.registry import Registry

EVIDENCE = {
    "recorded": "recorded by the training",
    "declared": "declared by who pushed it",
    "none": "nobody recorded it",
}
Pairs = list[tuple[str, str]]


def show(
    ref: Ref,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write its updates by layer and module, and their spectra: a .svg or .png file."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show one version: what it is, what it was trained on, what was made of it.

    Example: adreg show lighthouse:prod --plot lighthouse.svg
    """
    found = registry()
    version = found.adapters.resolve(parse_reference(ref))
    run = found.runs.get(version.run) if version.run else None
    artifacts, parents = found.artifacts.of(version), found.adapters.parents(version)
    protected = [alias.name for alias in found.adapters.aliases(version.adapter) if alias.protected]
    described = found.labels.description(version.adapter)
    value = {
        **version.as_json(),
        "description": described,
        "protected": [alias for alias in version.aliases if alias in protected],
        "parents": [vars(parent) for parent in parents],
        "artifacts": [vars(artifact) for artifact in artifacts],
        "run": run,
    }
    pairs = [
        *_labels(version, described, protected),
        *_origin(version, run, parents),
        *_content(version),
        *(pair for artifact in artifacts for pair in _artifact(artifact)),
    ]
    out = Output(json, quiet)
    out.fields(value, "reference", pairs)
    if plot:
        _draw(found, version, plot, out)


def _draw(found: Registry, version: VersionRecord, path: Path, out: Output) -> None:
    """The picture of a version's updates as a file, and its small form in the terminal."""
    from adreg.cli.heatmap import heatmap_lines
    from adreg.cli.progress import progress
    from adreg.cli.spectraplot import write_plot
    from adreg.formats.adapters.familyspectra import measure

    inspection = found.adapters.inspect(version)
    base = found.bases.get(version.base) if version.base else None
    spectra = measure(inspection, _widths(base, inspection.family.modules), progress(out.human))
    for reason, names in spectra.left_out.items():
        several = f" and {len(names) - 1} more" if len(names) > 1 else ""
        out.note(f"not drawn: {names[0]}{several}: {reason}", "yellow")
    write_plot(path, version.reference, spectra.found)
    if out.human:
        for line in heatmap_lines(spectra.found, coloured_stdout(), terminal_width()):
            print_line(line)
    out.note(f"wrote {path}")


def _widths(base: BaseRecord | None, modules: Iterable[str]) -> dict[str, int]:
    """The input features of `modules`, as far as their base is registered and has them."""
    from adreg.audit.weights import BaseWeights

    weights = BaseWeights(base.card) if base else None
    shapes = {name: weights.weight(name) for name in modules} if weights else {}
    return {name: shape[1] for name, shape in shapes.items() if shape and len(shape) == 2}


def _labels(version: VersionRecord, described: str, protected: list[str]) -> Pairs:
    aliases = [f"{alias} (protected)" if alias in protected else alias for alias in version.aliases]
    pairs = [("reference", version.reference)]
    if version.yanked is not None:
        pairs.append(("yanked", version.yanked or "without a reason"))
    optional = (("description", described), ("notes", version.notes), ("tags", ", ".join(version.tags)))
    return [
        *pairs,
        ("digest", version.digest),
        ("aliases", ", ".join(aliases) or "-"),
        *((label, text) for label, text in optional if text),
    ]


def _origin(version: VersionRecord, run: dict[str, Any] | None, parents: list[Parent]) -> Pairs:
    summary = version.summary
    pairs = [("base", f"{version.base or summary.get('base_claim') or '-'} ({EVIDENCE[summary.get('evidence', 'none')]})")]
    if version.weights_id:
        pairs.append(("weights id", version.weights_id))
    pairs += [("parent", f"{parent.reference} {parent.relation} ({parent.digest[7:19]})") for parent in parents]
    if run:
        pairs += [("run", run_line(run)), *(("data", data_line(file)) for file in run.get("data") or [])]
    origin = "" if version.origin in ("", "push") else f", from {version.origin}"
    return [*pairs, ("created", f"{version.created_at} ({age(version.created_at)}){origin}")]


def _content(version: VersionRecord) -> Pairs:
    summary = version.summary
    return [
        (summary.get("family", "LoRA"), _family(summary)),
        ("parameters", f"{summary['parameters']:,} in {summary['modules']} modules, {summary['dtype']}"),
        ("size", size(version.size)),
        *(("file", f"{digest[7:19]}  {path}") for path, digest in version.files.items()),
    ]


def _family(summary: dict[str, Any]) -> str:
    """What its family lets it have of rank, alpha and targets."""
    scaling = "alpha/√r" if summary["rslora"] else "alpha/r"
    rank, alpha = f"r={summary['rank']}", f"alpha={summary['alpha']:g} ({scaling})"
    sizes = [rank] * bool(summary["rank"]) + [alpha] * bool(summary["alpha"])
    on = f"on {', '.join(summary['targets'])}" if summary["targets"] else ""
    return f"{', '.join(sizes)} {on}".strip() or "-"


def _artifact(artifact: ArtifactRecord) -> Pairs:
    here = "" if Path(artifact.path).exists() else ", no longer there"
    told = f"{artifact.kind}  {artifact.path} ({size(artifact.size)}, {artifact.digest[7:19]}{here})"
    others = [source["reference"] for source in artifact.sources if source["reference"] != artifact.reference]
    pairs = [("artifact", told)]
    if others:
        pairs.append(("", f"together with {', '.join(others)}"))
    if artifact.verification:
        pairs.append(("", proof_line(artifact.verification)))
    return pairs


def proof_line(proof: dict[str, Any]) -> str:
    """How an artifact agreed with the adapter on its base."""
    told = "verified" if proof.get("passed") else "NOT verified"
    effect = proof.get("adapter_effect")
    figures = [
        f"{proof.get('tokenization_differences', '?')} of {proof.get('lines', '?')} lines tokenised differently",
        f"|Δ log p| max {proof.get('max_delta_logprob', float('nan')):.4f}",
        f"likeliest token the same at {proof.get('top1_agreement', float('nan')):.0%}",
        *([] if effect is None else [f"effect {effect:.2f}"]),
    ]
    return f"{told}: {', '.join(figures)}"


def run_line(run: dict[str, Any]) -> str:
    """A training in a line: its id, how it ended, its losses."""
    scores = run.get("eval") or {}
    told = f"{str(run['id'])[:12]}, {run.get('outcome', 'finished')}"
    if run.get("steps"):
        told += f", {run['steps']} steps"
    if scores.get("base") and scores.get("adapter"):
        told += f", held-out loss {scores['base']:.2f} → {scores['adapter']:.2f}"
    return told


def data_line(file: dict[str, Any]) -> str:
    """A training file in a line: its name, rows and digest."""
    rows = f", {file['rows']} rows" if file.get("rows") else ""
    return f"{str(file.get('sha256') or '-')[:12]}  {Path(str(file.get('path'))).name}{rows}"
