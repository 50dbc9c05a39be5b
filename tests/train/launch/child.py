"""A process as `adreg train --devices` starts it, that trains nothing and does as it is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from adreg.train.launch.member import FOLLOWS, RUN, end_with_starter, tell_ready


def main(how: str, place: Path) -> int:
    rank, got = int(os.environ["RANK"]), list[int]()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda came, _: got.append(came))
    end_with_starter()
    (place / f"{rank}.pid").write_text(str(os.getpid()))
    if how == "refuses":
        return 4
    tell_ready("run7")
    if how == "ends":
        print(f"{rank} of {os.environ['WORLD_SIZE']} read {sys.stdin.read()!r}, joins {os.environ.get(RUN)}")
        print(f"warning of {rank}", file=sys.stderr)
        return 0
    if how == "fails" and rank == 1:
        print("no memory left", file=sys.stderr)
        return 5
    if how == "dies" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "follows":
        time.sleep(0 if rank else 0.3)
        return FOLLOWS if rank else 1
    while len(got) < (2 if how == "stays" else 1):
        time.sleep(0.01)
    time.sleep(0.2)  # a signal that came twice would be seen
    (place / f"{rank}.got").write_text(repr(got))
    return 128 + got[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
