"""Which module names an expression of a configuration matches whole, as PEFT asks it, in a time that no expression can
stretch: what may take long is tried in a process of its own, which is then ended."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence

from adreg.formats.adapters.expressions import weight_of

QUICK = 16.0
NAME_LIMIT = 128
CPU_SECONDS, WALL_SECONDS = 1, 10


def matching(expression: str, names: Sequence[str]) -> frozenset[str] | None:
    """Those of `names` that `expression` matches; None where it is no expression, or takes more than `CPU_SECONDS`."""
    try:
        weight = weight_of(expression)
    except ValueError:
        return None
    short = all(len(name) <= NAME_LIMIT for name in names)
    if short and weight + math.log2(len(names) + 1) <= QUICK:
        return _matched(expression, names)
    return _matched_apart(expression, names)


def _matched(expression: str, names: Sequence[str]) -> frozenset[str]:
    compiled = re.compile(expression)
    return frozenset(name for name in names if compiled.fullmatch(name))


def _matched_apart(expression: str, names: Sequence[str]) -> frozenset[str] | None:
    from subprocess import TimeoutExpired, run

    from adreg.formats.text.templates import child_environment

    command = (sys.executable, "-P", "-m", "adreg.formats.adapters.matching")
    asked, place = json.dumps([expression, list(names)]), child_environment()
    try:
        child = run(command, env=place, input=asked, capture_output=True, text=True, timeout=WALL_SECONDS, check=False)
    except TimeoutExpired:
        return None
    return frozenset(json.loads(child.stdout)) if child.returncode == 0 else None


def main() -> None:
    """Answer for one expression, with little time."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    expression, names = json.load(sys.stdin)
    json.dump(sorted(_matched(expression, names)), sys.stdout)


if __name__ == "__main__":
    main()
