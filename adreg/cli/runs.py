"""`adreg runs`: recorded trainings."""

from __future__ import annotations

from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, age
from adreg.cli.runsdiff import diff
from adreg.cli.runsplot import plot
from adreg.cli.runtext import data_names, duration, held_out, last_loss, number_of, steps_told
from adreg.errors import UsageError
from adreg.settings import Settings

app = typer.Typer(help="Runs: what was trained, on what, and how it went.", no_args_is_help=True)
COLOURS = {"running": "green", "lost": "yellow", "interrupted": "yellow", "failed": "red", "diverged": "red"}


def complete_run(incomplete: str) -> list[str]:
    """Run ids for shell completion."""
    if not Settings.from_environment().database.exists():
        return []
    return [record["id"] for record in registry().runs.all() if record["id"].startswith(incomplete)]


Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the start of it, or last.", autocompletion=complete_run)]


@app.command("ls")
def list_(
    json: Json = False,
    quiet: Quiet = False,
    outcome: Annotated[str | None, typer.Option("--outcome", help="Only those that ended so: finished, lost, ...")] = None,
) -> None:
    """List the recorded trainings, newest first.

    LOSS is that of the last step, HELD-OUT that of the held-out rows before and after.
    """
    found = registry().runs
    found.settle()
    rows = [run for run in found.all() if outcome in (None, run.get("outcome"))]
    columns = {
        "RUN": lambda run: run["id"][:12],
        "OUTCOME": lambda run: str(run.get("outcome")),
        "BASE": lambda run: str((run.get("base") or {}).get("name") or "-"),
        "DATA": lambda run: ", ".join(data_names(run)) or "-",
        "STEPS": steps_told,
        "LOSS": last_loss,
        "HELD-OUT": held_out,
        "TIME": lambda run: duration(number_of(run.get("seconds"))),
        "STARTED": lambda run: age(run["started"]),
    }
    Output(json, quiet).table(
        rows,
        columns,
        "id",
        "no runs yet: adreg train --base B --data FILE",
        lambda run: COLOURS.get(str(run.get("outcome")), ""),
    )


@app.command()
def show(run: Run, json: Json = False, quiet: Quiet = False) -> None:
    """Show one training: base, data, settings, losses, samples, and what it ran on.

    Example: adreg runs show last
    """
    from adreg.cli.runshow import print_samples, run_pairs

    found, out = registry().runs, Output(json, quiet)
    found.settle()
    record = found.get(run)
    out.fields(record, "id", run_pairs(record))
    if out.human:
        print_samples(record)


@app.command()
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs to forget.", autocompletion=complete_run)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forget runs, with their checkpoints. A run that made a stored version stays.

    Example: adreg runs rm 6a01f0c2 --yes
    """
    found, out = registry().runs, Output(json, quiet)
    for record in [found.get(run) for run in runs]:
        if not yes:
            raise UsageError(f"forget run {record['id']} ({record.get('outcome')}, {steps_told(record)} steps)?", "add --yes")
        found.remove(record["id"])
        out.done(f"forgot run {record['id']}", {"id": record["id"]}, "id")


app.command()(plot)
app.command()(diff)
