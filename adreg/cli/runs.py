"""`adreg runs`: recorded trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adreg.cli.common import Json, Quiet, registry
from adreg.cli.output import Output, age

app = typer.Typer(help="Runs: what was trained, on what, and how it went.", no_args_is_help=True)


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the recorded trainings, newest first."""
    columns = {
        "RUN": lambda row: row["id"][:12],
        "BASE": lambda row: str((row.get("base") or {}).get("name") or "-"),
        "DATA": lambda row: ", ".join(_data_names(row)),
        "LOSS": lambda row: _score(row, "adapter"),
        "WAS": lambda row: _score(row, "base"),
        "SECONDS": lambda row: f"{row.get('seconds', 0):.0f}",
        "STARTED": lambda row: age(row["started"]),
    }
    Output(json, quiet).table(registry().runs.all(), columns, "id", "no runs yet: adreg train --base B --data FILE")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, or the start of it.")], json: Json = False, quiet: Quiet = False
) -> None:
    """Show one training: base, data, settings, losses."""
    record = registry().runs.get(run)
    base, losses = record.get("base") or {}, record.get("losses") or []
    pairs = [
        ("run", record["id"]),
        ("started", f"{record.get('started')}, {record.get('seconds', 0):.0f} s, {record.get('outcome')}"),
        ("base", f"{base.get('name')} {base.get('weights_id')}"),
        *(("data", f"{name}") for name in _data_names(record)),
        ("trainable", f"{record.get('trainable', 0):,} parameters"),
        ("held-out loss", f"{_score(record, 'base')} before, {_score(record, 'adapter')} after"),
        ("losses", " ".join(f"{loss[1]:.2f}" for loss in losses[:: max(1, len(losses) // 12)])),
        ("settings", str(record.get("config"))),
        ("versions", str(record.get("versions"))),
    ]
    Output(json, quiet).fields(record, "id", pairs)


def _data_names(record: dict[str, Any]) -> list[str]:
    return [Path(str(file.get("path"))).name for file in record.get("data") or []]


def _score(record: dict[str, Any], which: str) -> str:
    value = (record.get("eval") or {}).get(which)
    return "-" if value is None else f"{value:.3f}"
