"""Trainings in two processes over gloo that are killed and resumed, each process a fork of one that has imported everything.

Which of the two is killed is drawn: the first, the other, or both, as where their starter dies.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import adreg.train
from adreg.errors import ConflictError
from adreg.train.config import check_config
from adreg.train.run import TrainRequest, train
from tests.train.loop.killing import SETTINGS, Telling

PLAIN = {**SETTINGS, "lora": {"r": 4}, "train": {**SETTINGS["train"], "precision": "fp32"}}


def run(base: Path, data: Path, folder: Path, settings: dict[str, Any], pipe: int) -> None:
    config = check_config({**settings, "data": {"train": [str(data)], "eval": 0.2}})
    resume = folder / "run" if any((folder / "run").glob("checkpoint-*")) else None
    request = TrainRequest(base, "tiny", {"weights_id": "b3:00"}, config, folder / "out", folder / "run", resume)
    train(request, recorder=Telling(pipe))


def forked(base: Path, data: Path, folder: Path, settings: dict[str, Any], processes: int, kill: Any = None) -> list[int]:
    """How the processes ended; `kill` is the step after which, so many seconds later, those ranks are killed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    read, write = os.pipe()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.close(read)
            if processes > 1:
                places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                os.environ |= {name: str(value) for name, value in places.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ADREG_HOME": str(folder)}
            status = 1
            try:
                run(base, data, folder, settings, write)
                status = 0
            except BaseException:  # noqa: BLE001 - a child must not come back
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    os.close(write)
    while told := os.read(read, 1):
        if kill and told[0] == kill[0]:
            time.sleep(kill[1])
            for rank in kill[2]:
                os.kill(children[rank], signal.SIGKILL)
    os.close(read)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def trials(base: Path, data: Path, place: Path, count: int, drawn: random.Random) -> list[Any]:
    """For each trial what was killed, and whether the adapter has the bytes of a run of two that nobody killed."""
    assert forked(base, data, place / "whole", SETTINGS, 2) == [0, 0]
    record = json.loads((place / "whole" / "out" / "adreg.json").read_text())
    expected = (place / "whole" / "out" / "adapter_model.safetensors").read_bytes()
    found = []
    for trial in range(count):
        folder, killed = place / f"trial-{trial}", []
        for _ in range(drawn.choice((1, 1, 2))):
            kill = drawn.randint(1, record["steps"] - 1), drawn.uniform(0, 0.04), drawn.choice(((0,), (1,), (0, 1)))
            killed.append([kill, forked(base, data, folder, SETTINGS, 2, kill)])
            if (folder / "out").exists():
                break
        if not (folder / "out").exists():
            assert forked(base, data, folder, SETTINGS, 2) == [0, 0]
        found.append([killed, (folder / "out" / "adapter_model.safetensors").read_bytes() == expected])
        shutil.rmtree(folder)
        print(found[-1], file=sys.stderr, flush=True)
    return found


def others(base: Path, data: Path, place: Path) -> dict[str, Any]:
    """A run of two that was killed and goes on as one, and as one that never stopped; and one that may not."""
    forked(base, data, place / "mixed", PLAIN, 2, (7, 0, (0, 1)))
    forked(base, data, place / "mixed", PLAIN, 1)
    forked(base, data, place / "alone", PLAIN, 1)
    forked(base, data, place / "drops", SETTINGS, 2, (7, 0, (0, 1)))
    try:
        run(base, data, place / "drops", SETTINGS, 2)
        refused = ""
    except ConflictError as error:
        refused = f"{error}; {error.hint}"
    return {"refused": refused}


def main(base: Path, data: Path, place: Path, count: int, seed: int, more: bool) -> None:
    for module in pkgutil.walk_packages(adreg.train.__path__, "adreg.train."):
        importlib.import_module(module.name)  # what a run imports, imported once
    told = {"trials": trials(base, data, place, count, random.Random(seed))}
    print(json.dumps(told | (others(base, data, place) if more else {})))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), len(sys.argv) > 6)
