"""Runs llama.cpp's conversion scripts, many jobs in one process. Run as a script with the oracle on PYTHONPATH.

Standard input: a JSON list of jobs, each a script's path and its arguments. Standard output: a JSON list of what went
wrong with each, empty where nothing did.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def run(script: str, arguments: list[str]) -> str:
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stopped:
        return f"exit {stopped.code}" if stopped.code else ""
    except Exception as error:  # noqa: BLE001 - whatever the converter raises is its answer
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump([run(script, arguments) for script, arguments in json.load(sys.stdin)], answers)
    answers.close()


if __name__ == "__main__":
    main()
