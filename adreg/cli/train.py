"""`adreg train` and `adreg recipes`: from data to an adapter folder, recorded and, if asked, pushed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import BaseOption, Json, Quiet, name_and_alias, quiet_libraries, registry
from adreg.cli.output import Output, print_line
from adreg.cli.progress import progress
from adreg.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from adreg.registry.intake import Pushed
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.train.config import TrainConfig
    from adreg.train.data import DataReport
    from adreg.train.run import TrainResult

recipes_app = typer.Typer(help="Recipes: training settings that come with adreg.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Settings; --set goes over them.")]
Recipe = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe from `adreg recipes ls`.")]
Data = Annotated[list[Path] | None, typer.Option("--data", "-d", help="Training file: .jsonl, .json or .txt.")]
Eval = Annotated[list[Path] | None, typer.Option("--eval", help="Held-out file; else a share of the data.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One setting, such as lora.r=16.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A new folder for the adapter.")]
Push = Annotated[str | None, typer.Option("--push", metavar="NAME[:ALIAS]", help="Push the adapter when it is done.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Check settings and data, print them, train nothing.")]


def train(
    config: ConfigFile = None,
    recipe: Recipe = None,
    base: BaseOption = None,
    data: Data = None,
    eval_: Eval = None,
    sets: Sets = None,
    out_folder: Out = None,
    push: Push = None,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a LoRA adapter. Only answers and their stop token are trained; the run is recorded.

    Example: adreg train --base smollm2 --data rows.jsonl --set train.epochs=4 --push voice:dev
    """
    from adreg.train.config import load_config

    out, found = Output(json, quiet), registry()
    if base is None:
        raise UsageError("which base?", "--base NAME from `adreg base ls`, or a checkpoint folder")
    name = name_and_alias(push) if push else None
    settings = load_config(recipe, config, [*(sets or []), *_files("data.train", data), *_files("data.eval", eval_)])
    folder = out_folder or Path(f"{name.name.rpartition('/')[2] if name else 'adapter'}")
    if folder.exists():
        raise ConflictError(f"{folder} already exists", "choose another folder with --out")
    record = found.bases.ensure(base, progress(out.human))
    if dry_run:
        _print_plan(out, record, settings)
        return
    result = run_training(found, record, settings, folder, out)
    pushed = push_trained(found, result, name.name, name.alias) if name else None
    out.done(_told(result, pushed), {**asdict(result.record), "folder": str(folder)}, "id")


def run_training(found: Registry, record: BaseRecord, settings: TrainConfig, folder: Path, out: Output) -> TrainResult:
    """Train on the base's files as they are now, and record the run."""
    from adreg.train.run import TrainRequest
    from adreg.train.run import train as run

    quiet_libraries()
    found.bases.current(record, progress(out.human))
    request = TrainRequest(record.folder, record.name, vars(record.card.ids), settings, folder)
    result = run(request, progress(out.human))
    found.runs.add(asdict(result.record))
    return result


def push_trained(found: Registry, result: TrainResult, name: str, alias: str | None) -> Pushed:
    """Push what a training wrote."""
    from adreg.registry.push import plan_push

    return found.adapters.push(plan_push(result.folder), name, alias, None)


def _files(setting: str, files: list[Path] | None) -> list[str]:
    import json

    return [f"{setting}={json.dumps([str(file) for file in files])}"] if files else []


def _print_plan(out: Output, record: BaseRecord, settings: TrainConfig) -> None:
    from adreg.formats.bases.checkpoint import open_checkpoint
    from adreg.train.data import prepare

    prepared = prepare(open_checkpoint(record.folder), settings.data, settings.train.seed)
    value = {"base": record.name, "config": settings.model_dump(mode="json"), "data": [vars(one) for one in prepared.reports]}
    rows = [("base", record.name), ("train rows", str(len(prepared.train))), ("held-out rows", str(len(prepared.held_out)))]
    rows += [("data", _report(one)) for one in prepared.reports]
    rows += [(section, str(values)) for section, values in value["config"].items() if values]  # type: ignore[attr-defined]
    out.fields(value, "base", rows)


def _report(report: DataReport) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in report.dropped.items()) or "none dropped"
    share = report.trained_tokens / max(1, report.total_tokens)
    return f"{report.path}: {report.form}, {report.used} of {report.rows} rows ({dropped}), {share:.0%} of tokens trained"


def _told(result: TrainResult, pushed: Pushed | None) -> str:
    record = result.record
    text = f"trained {result.folder} in {record.seconds:.0f} s"
    if record.eval.base is not None and record.eval.adapter is not None:
        text += f", held-out loss {record.eval.base:.3f} → {record.eval.adapter:.3f}"
    return text + (f", pushed {pushed.version.reference} ({pushed.version.short_digest})" if pushed else "")


@recipes_app.command("ls")
def list_recipes(json: Json = False, quiet: Quiet = False) -> None:
    """List the recipes."""
    from adreg.train import recipes

    rows: list[dict[str, Any]] = [{"name": name, **recipes.read_recipe(name)} for name in recipes.names()]
    columns = {"NAME": lambda row: row["name"], "WHAT": lambda row: row.get("description", "")}
    Output(json, quiet).table(rows, columns, "name", "no recipes")


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="A recipe.")], json: Json = False) -> None:
    """Print a recipe, ready to be edited and given to `adreg train`."""
    from adreg.train import recipes

    if json:
        Output(json).data(recipes.read_recipe(name))
    else:
        print_line(recipes.recipe_text(name).rstrip())
