"""How llama.cpp's server is started so that no adapter's answer is made of another one's keys and values. Starts nothing.

The recipe, measured by `python -m bench.llamacpp` (llama.cpp#26207): no prompt cache in the host's memory and no choice of
slots by similar prompts, for both compare tokens and forget adapters; keys and values apart for each slot; adapters loaded
and none applied. The requests do the rest, see `dialect.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from adreg.errors import MissingExtra, UsageError

CHILD = Path(__file__).with_name("child.py")
PROGRAM, KEY_VARIABLE = "llama-server", "LLAMA_API_KEY"
HELP_SECONDS = 60
SWITCHES = (
    "--lora-init-without-apply", "--no-kv-unified", "--no-context-shift", "--no-slots", "--no-ui", "--no-prefill-assistant",
    "--jinja", "--offline", "--no-warmup",
)  # fmt: skip
SETTINGS = {
    "--log-verbosity": "1",
    "--cache-ram": "0",
    "--slot-prompt-similarity": "0",
    "--cache-reuse": "0",
    "--reasoning-format": "none",
}


@dataclass(frozen=True)
class Served:
    """One process: `model` and `adapters` are GGUF files, `slots` requests run at a time, each in `context` tokens.

    `invariant` computes token by token, prompts too: then no sum depends on what else is in the batch or the cache.
    """

    model: str
    alias: str
    adapters: tuple[str, ...]
    slots: int
    context: int
    threads: int
    port: int
    invariant: bool = False


@dataclass(frozen=True)
class LlamaServer:
    """What runs: the `program`, or None for the server in xllamacpp's wheel."""

    program: Path | None

    @property
    def name(self) -> str:
        return str(self.program) if self.program else "xllamacpp"

    def command(self, served: Served) -> tuple[str, ...]:
        """The command line."""
        if self.program is None:
            return (sys.executable, "-P", str(CHILD), json.dumps(asdict(served)))
        total = str(served.context * served.slots)
        numbers = {"--parallel": served.slots, "--ctx-size": total, "--threads": served.threads, "--port": served.port}
        words = {"--model": served.model, "--alias": served.alias, "--host": "127.0.0.1", **numbers, **SETTINGS}
        loras = ("--lora", ",".join(map(_quoted, served.adapters))) if served.adapters else ()
        single = ("--ubatch-size", "1") if served.invariant else ()
        return (str(self.program), *SWITCHES, *single, *(str(word) for pair in words.items() for word in pair), *loras)


def _quoted(path: str) -> str:
    """`path` as a field of the comma-separated list that llama.cpp reads."""
    escaped = path.replace('"', '""')
    return f'"{escaped}"' if set(path) & {",", '"'} else path


def environment(secret: str, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours without settings of llama.cpp, which could undo the recipe; requests need `secret`."""
    return {name: value for name, value in ours.items() if not name.startswith("LLAMA_")} | {KEY_VARIABLE: secret}


def find_server(program: Path | None) -> LlamaServer:
    """The `program`, or else `llama-server` on PATH, or else xllamacpp.

    Raises `UsageError` for a program that lacks what the recipe needs, and `MissingExtra` where there is none.
    """
    found = str(program) if program else shutil.which(PROGRAM)
    if found is not None:
        return LlamaServer(_checked(Path(found)))
    if find_spec("xllamacpp") is None:
        raise MissingExtra("xllamacpp", "llamacpp")
    return LlamaServer(None)


def _checked(program: Path) -> Path:
    try:
        asked = subprocess.run([program, "--help"], capture_output=True, timeout=HELP_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{program} cannot be run: {error}", "--llama-server names another one") from error
    told = set(asked.stdout.decode(errors="replace").replace(",", " ").split())
    missing = [flag for flag in (*SWITCHES, *SETTINGS) if flag not in told]
    if missing:
        instead = "a newer llama.cpp has them; --llama-server names another one"
        raise UsageError(f"{program} knows no {', '.join(missing)}, without which adapters could be mixed up", instead)
    return program.absolute()
