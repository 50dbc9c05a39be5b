"""adreg and other trainers on the same rows with the same LoRA, in one run: `python -m bench.train`.

SmolLM2-135M-Instruct. One process runs at a time, on all processors; each is run several times in turn with the others, and
the median counts. TRL is left out where it is not installed (`make bench-train` installs it). `bench/README.md` says more.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.spine import header, unpack
from bench.trainers.contenders import NAMES, PREPARERS, TRAINERS, Contender, installed, run
from bench.trainers.job import Prepared, Trained, middle
from bench.wanted import Wanted, train_wanted

RUNS = 3
QUICK_RUNS, QUICK_SHARE = 1, 0.5

Found = Mapping[str, Trained | Prepared]


def main() -> None:
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the trainer under way goes before this process does
    chosen = [one for one in (*TRAINERS, *PREPARERS) if one.name in (asked.contenders or NAMES) and installed(one)]
    with TemporaryDirectory() as scratch:
        base = asked.base or unpack(Path(scratch))
        runs, share = (QUICK_RUNS, QUICK_SHARE) if asked.quick else (asked.runs, 1)
        every = measured(chosen, base, runs, share)
    found = {name: middle(runs) for name, runs in every.items()}
    judged = list(train_wanted(found))
    print(header() + versions(found))
    print(table(found))
    print("\n".join(map(str, judged)))
    if asked.json:
        asked.json.write_text(json.dumps(told(every, judged, versions(found)), indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=f"of {', '.join(map(repr, NAMES))}; all by default")
    parser.add_argument("--quick", action="store_true", help="once, with fewer steps: about four minutes, for a first look")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how often each is run ({RUNS}); the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--base", type=Path, metavar="DIR", help="SmolLM2-135M-Instruct where it lies already")
    asked = parser.parse_args()
    if unknown := set(asked.contenders) - set(NAMES):
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return asked


def measured(contenders: Sequence[Contender], base: Path, runs: int, share: float) -> dict[str, list[Trained | Prepared]]:
    """`runs` runs of each, all contenders once before any of them again; one that fails is told of and left out."""
    found: dict[str, list[Trained | Prepared]] = {}
    failed: set[str] = set()
    for number in range(1, runs + 1):
        for contender in contenders:
            if contender.name in failed:
                continue
            say(f"{contender.name}, {number} of {runs}")
            try:
                found.setdefault(contender.name, []).append(run(contender, base, share))
            except RuntimeError as error:
                say(f"{error}\n")
                failed.add(contender.name)
    return {name: done for name, done in found.items() if name not in failed}


def table(found: Found) -> str:
    lines = [f"{'':30}  rows/s  learned tok/s  steps   s/step  CPU s/step   peak MB  ready in"]
    lines += [line(name, one) for name, one in found.items() if isinstance(one, Trained)]
    lines += ["", f"{'':30}  rows/s  learned tok/s"]
    lines += [f"{name:30}{speeds(one)}" for name, one in found.items() if isinstance(one, Prepared)]
    return "\n".join([*lines, ""])


def line(name: str, one: Trained) -> str:
    pace = f"{one.steps:7}{one.seconds / one.steps:9.3f}{one.cpu / one.steps:12.3f}"
    return f"{name:30}{speeds(one)}{pace}{one.peak / 1e6:10.0f}{one.loaded:8.1f} s"


def speeds(one: Trained | Prepared) -> str:
    return f"{one.speed:8.2f}{one.learned / one.seconds:15.1f}"


def versions(found: Found) -> str:
    """The versions of everything that trained."""
    every = {name: one for done in found.values() if isinstance(done, Trained) for name, one in done.versions.items()}
    return ", ".join(f"{name} {version}" for name, version in every.items()) + "\n"


def told(every: Mapping[str, Sequence[Trained | Prepared]], judged: Sequence[Wanted], known: str) -> dict[str, object]:
    return {
        "machine": header().strip(),
        "versions": known.strip(),
        "runs": {name: [asdict(one) for one in runs] for name, runs in every.items()},
        "wanted": [{**asdict(one), "met": one.met} for one in judged],
    }


def say(what: str) -> None:
    """A line on stderr that the next one replaces."""
    sys.stderr.write(f"\r\033[K{what}" if sys.stderr.isatty() else f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
