"""`adreg ps`: the servers that run on this machine, and what each does."""

from __future__ import annotations

import time
from typing import Any

from adreg.cli.client import Client
from adreg.cli.common import Json, Quiet
from adreg.cli.output import Output, print_line, size
from adreg.errors import RemoteError
from adreg.serve.server.presence import Presence, running
from adreg.settings import Settings

BETWEEN_LOOKS = 0.3
SERVERS = {
    "URL": lambda row: row["url"],
    "BASE": lambda row: row["base"],
    "STATE": lambda row: row["state"],
    "REQUESTS": lambda row: f"{row['running']} run, {row['waiting']} wait" if "running" in row else "-",
    "TOK/S": lambda row: f"{row['tokens_per_second']:.0f}" if row.get("tokens_per_second") else "-",
    "SLOTS": lambda row: f"{row['slots']['used']}/{row['slots']['total']}" if "slots" in row else "-",
    "KV": lambda row: f"{size(row['kv_bytes']['used'])} of {size(row['kv_bytes']['total'])}" if "kv_bytes" in row else "-",
    "UP": lambda row: duration(row["uptime_seconds"]) if "uptime_seconds" in row else "-",
}
ADAPTERS = {
    "ADAPTER": lambda row: row["name"],
    "DIGEST": lambda row: row["digest"].rpartition(":")[2][:12],
    "STATE": lambda row: row["state"],
    "SERVER": lambda row: row["url"],
}
STYLES = {"draining": "yellow", "no answer": "red", "failed": "red", "loading": "yellow", "resident": "green"}


def ps(json: Json = False, quiet: Quiet = False) -> None:
    """List the servers that run here: what they serve, to how many, how fast, in how much memory.

    Example: adreg ps
    """
    out, servers = Output(json, quiet), running(Settings.from_environment().home)
    rows = [_look(server) for server in servers]
    if any(row.get("running") for row in rows):
        time.sleep(BETWEEN_LOOKS)
        rows = [_with_speed(earlier, _look(server)) for earlier, server in zip(rows, servers, strict=True)]
    out.table(rows, SERVERS, "url", "no server runs here; adreg serve REF starts one", _style)
    adapters = [{**adapter, "url": row["url"]} for row in rows for adapter in row.get("adapters", ())]
    if out.human and adapters:
        print_line("")
        out.table(adapters, ADAPTERS, "name", "", _style)


def _look(server: Presence) -> dict[str, Any]:
    """What the server tells of itself, or why it does not."""
    row = {"url": server.url, "base": server.base, "pid": server.pid, "started": server.started}
    try:
        told = Client(server.url, server.key).get("/status")
    except RemoteError as error:
        return {**row, "state": "no answer", "why": error.why}
    return {**row, **told, "state": "draining" if told["draining"] else "up"}


def _with_speed(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """`now` with the tokens a second generated since `earlier`, by the server's own clock and count."""
    if not (earlier.get("generated_tokens") is not None and now.get("generated_tokens") is not None):
        return now
    seconds = now["uptime_seconds"] - earlier["uptime_seconds"]
    return {**now, "tokens_per_second": round((now["generated_tokens"] - earlier["generated_tokens"]) / seconds, 1)}


def duration(seconds: float) -> str:
    """A length of time for people: 42 s, 7 min, 3 h, 12 d."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _style(row: dict[str, Any]) -> str:
    return STYLES.get(row["state"], "")
