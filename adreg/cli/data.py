"""`adreg data`: look at training data as the model will see it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adreg.cli.common import Json, complete_base, registry
from adreg.cli.output import Output, print_line
from adreg.cli.progress import progress
from adreg.cli.terminal import coloured_stdout

if TYPE_CHECKING:
    from adreg.formats.bases.checkpoint import Checkpoint
    from adreg.train.config import Source, TrainConfig
    from adreg.train.data.report import DataReport

app = typer.Typer(help="Data: see what would be trained, and what would be dropped.", no_args_is_help=True)

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Files of rows: .jsonl, .json, .csv, .tsv, .txt, .parquet, or - for stdin."),
]
Base = Annotated[str, typer.Option("--base", "-b", help="Whose tokenizer and chat template.", autocompletion=complete_base)]
Recipe = Annotated[str | None, typer.Option("--recipe", "-r", help="A recipe from `adreg recipes ls`.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", metavar="CONFIG.yaml", help="Settings, as for `adreg train`.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One setting, such as data.max_tokens=256.")]
Maps = Annotated[
    list[str] | None, typer.Option("--map", metavar="ROLE=COLUMN", help="Which column holds what, such as answer=answer_zh.")
]
Samples = Annotated[int, typer.Option("--samples", "-n", help="How many rows of each file to show.", min=0, max=20)]


@app.command()
def check(
    files: Files,
    base: Base,
    recipe: Recipe = None,
    config: Config = None,
    sets: Sets = None,
    maps: Maps = None,
    samples: Samples = 2,
    json: Json = False,
) -> None:
    """Read every row of FILE... as a training would: form, template, tokens, and which of them are learned.

    Example: adreg data check rows.jsonl --base smollm2
    """
    from adreg.cli.datareport import samples as chosen
    from adreg.train.config import load_config, map_sets
    from adreg.train.data.loader import Loader

    out = Output(json)
    settings = load_config(recipe, config, [*(sets or []), *map_sets(maps or [])])
    loader = Loader(_checkpoint(base, settings, out), settings.data, settings.objective)
    found = []
    for file in files:
        loaded = loader.load(_source(settings, Path(file)))
        shown = chosen(loaded, loader.encoder(), samples) if samples else []
        found.append({**vars(loaded.report), "samples": shown})
        if out.human:
            _print(loaded.report, loader.stop_token(loaded), shown)
    if json:
        out.data(found[0] if len(found) == 1 else found)


def _checkpoint(base: str, settings: TrainConfig, out: Output) -> Checkpoint:
    """The base's files: of a folder only what is needed, so that its weights are not read."""
    from adreg.formats.bases.checkpoint import open_checkpoint
    from adreg.train.model.tokens import with_tokens

    folder = Path(base).expanduser()
    if not (folder / "config.json").is_file():
        folder = registry().bases.look(base, progress(out.human)).folder
    checkpoint = open_checkpoint(folder)
    return with_tokens(checkpoint, settings) if settings.lora.new_tokens else checkpoint


def _source(settings: TrainConfig, path: Path) -> Source:
    """What the settings say of this file, if anything."""
    from adreg.train.config import Source

    named = [source for source in settings.data.train if source.path == path]
    return named[0] if named else Source(path=path)


def _print(report: DataReport, stop: str, shown: list[dict[str, Any]]) -> None:
    from adreg.cli.datareport import report_lines, sample_lines

    colour = coloured_stdout()
    for line in report_lines(report, stop, colour):
        print_line(line)
    for sample in shown:
        for line in sample_lines(report.path, sample, colour):
            print_line(line)
    print_line("")
