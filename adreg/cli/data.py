"""`adreg data`: look at training data as the model will see it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from adreg.cli.common import Json, complete_base, registry
from adreg.cli.output import Output, stderr_console
from adreg.cli.progress import progress
from adreg.cli.terminal import clean

if TYPE_CHECKING:
    from adreg.train.data import DataReport
    from adreg.train.encode import Encoder, Example

app = typer.Typer(help="Data: see what would be trained, and what would be dropped.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A training file: .jsonl, .json or .txt.")]
Base = Annotated[str, typer.Option("--base", "-b", help="Whose tokenizer and chat template.", autocompletion=complete_base)]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One setting, such as data.max_tokens=256.")]
Samples = Annotated[int, typer.Option("--samples", help="How many rows to show.", min=0, max=20)]


@app.command()
def check(file: File, base: Base, sets: Sets = None, samples: Samples = 2, json: Json = False) -> None:
    """Read every row of FILE as a training would: form, template, tokens, and which of them are learned.

    Example: adreg data check rows.jsonl --base smollm2
    """
    from adreg.formats.bases.checkpoint import open_checkpoint
    from adreg.train.config import load_config
    from adreg.train.data import check_file
    from adreg.train.encode import Encoder

    out = Output(json)
    checkpoint = open_checkpoint(registry().bases.look(base, progress(out.human)).folder)
    report, examples = check_file(file, checkpoint, load_config(sets=sets or []).data)
    out.fields(vars(report), "path", _pairs(report))
    if out.human:
        encoder = Encoder(checkpoint.tokenizer)
        for example in examples[:samples]:
            stderr_console().print(_coloured(encoder, example), soft_wrap=True)


def _pairs(report: DataReport) -> list[tuple[str, str]]:
    dropped = ", ".join(f"{count} {why}" for why, count in report.dropped.items()) or "none"
    return [
        ("file", f"{report.path} (sha256 {report.sha256[:12]})"),
        ("form", report.form),
        ("rows", f"{report.used} of {report.rows} used; dropped: {dropped}; {report.duplicates} duplicates"),
        ("tokens", f"{report.total_tokens:,}, the longest row {report.longest}"),
        ("learned", f"{report.trained_tokens:,} tokens ({report.trained_tokens / max(1, report.total_tokens):.0%})"),
    ]


def _coloured(encoder: Encoder, example: Example) -> Text:
    """The row as text: what is learned in green, the rest dim."""
    text, start = Text("\n"), 0
    learned = [int(label) >= 0 for label in example.labels]
    for end in range(1, len(learned) + 1):
        if end == len(learned) or learned[end] != learned[start]:
            piece = clean(encoder.decode(example.ids[start:end].tolist()))
            text.append(piece, style="bold green" if learned[start] else "dim")
            start = end
    return text
