"""Starts two of `child` together and prints how they ended."""

from __future__ import annotations

import sys
from dataclasses import asdict

from adreg.train.launch.processes import run_together
from adreg.train.launch.profile import read_profile

if __name__ == "__main__":
    command = [sys.executable, "-m", "tests.train.launch.child", *sys.argv[1:]]
    print(asdict(run_together(command, read_profile(None, 2), b"rows")))
