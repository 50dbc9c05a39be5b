"""The audit's mutation score: every rule has a mutation of clean adapters that fires it, and clean ones stay clean.

`python -m tests.audit.test_mutations` prints rules x adapters and the score.
"""

from __future__ import annotations

import shutil
import sys
from filecmp import cmp
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from adreg.audit.catalogue import BY_ID
from adreg.audit.findings import Severity
from adreg.audit.run import Speed, judge
from adreg.audit.subject import Subject
from tests.audit.clean import Clean, build_clean_set
from tests.audit.mutations import CONFIG, WEIGHTS, Mutation

LETTERS = ("file", "keys", "base", "tokenizer", "quality", "duplicates", "supply", "provenance", "readiness")
MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    letter: import_module(f"tests.audit.mutations.{letter}").MUTATIONS for letter in LETTERS
}


def fired(subject: Subject, speed: Speed) -> frozenset[str]:
    return frozenset(finding.rule for finding in judge(subject, speed).findings)


@cache
def fired_before(clean: Clean, speed: Speed) -> frozenset[str]:
    return fired(clean.subject(clean.folder), speed)


def changed(folder: Path, clean: Clean) -> bool:
    """Whether one of the two files that the record of the training speaks of is another now: the record contradicts it."""
    return any((folder / name).is_file() and not cmp(folder / name, clean.folder / name) for name in (CONFIG, WEIGHTS))


def wrong(mutation: Mutation, clean: Clean, place: Path) -> str:
    """What is wrong with the answer to `mutation` of `clean`, or an empty string."""
    before = fired_before(clean, mutation.speed)
    folder = shutil.copytree(clean.folder, place / "mutated")
    try:
        mutation.apply(folder)
        new = fired(mutation.alter(clean.subject(folder)), mutation.speed) - before
        told = frozenset({"S-PRV-2"}) if changed(folder, clean) else frozenset()
    finally:
        shutil.rmtree(folder)
    if mutation.rule not in new:
        return f"{mutation.rule} {mutation.label} on {clean.name}: silent, but {sorted(new)} fired"
    besides = new - {mutation.rule} - mutation.consequences - told
    return f"{mutation.rule} {mutation.label} on {clean.name}: fired {sorted(besides)} besides" if besides else ""


def test_clean_adapters_have_no_error(clean_set: dict[str, Clean]):
    for clean in clean_set.values():
        report = judge(clean.subject(clean.folder), Speed.DEEP)
        assert not report.at_least(Severity.WARN), (clean.name, report.at_least(Severity.WARN))
    architectures = {clean.card.architecture for clean in clean_set.values()}
    assert len(architectures) >= 8 and len({clean.recipe.family for clean in clean_set.values()}) >= 8


def test_every_rule_has_a_mutation():
    covered = {mutation.rule for mutations in MUTATIONS.values() for mutation in mutations}
    assert covered == set(BY_ID)


@pytest.mark.parametrize("letter", LETTERS)
def test_every_mutation_is_found_by_its_rule_and_nothing_else(clean_set: dict[str, Clean], letter: str, tmp_path: Path):
    faults = []
    for mutation in MUTATIONS[letter]:
        fitting = [clean for clean in clean_set.values() if mutation.applies_to(clean)]
        assert fitting, f"{mutation.rule} {mutation.label} fits no clean adapter"
        faults += [fault for clean in fitting if (fault := wrong(mutation, clean, tmp_path))]
    assert not faults, "\n".join(faults)


def main() -> None:
    """Print the table: `x` found, `.` not applicable, `!` wrong."""
    with TemporaryDirectory() as place:
        cleans = list(build_clean_set(Path(place)).values())
        found = tried = 0
        faults = []
        for number, clean in enumerate(cleans, 1):
            print(f"{number:3} {clean.card.architecture:22} {clean.name}, for {clean.target}")
        for mutation in (mutation for mutations in MUTATIONS.values() for mutation in mutations):
            marks = ""
            for clean in cleans:
                fault = wrong(mutation, clean, Path(place)) if mutation.applies_to(clean) else None
                marks += "." if fault is None else "!" if fault else "x"
                faults += [fault] if fault else []
            found, tried = found + marks.count("x"), tried + len(marks) - marks.count(".")
            print(f"{mutation.rule:9} {marks} {mutation.label}", flush=True)
        rules = len({mutation.rule for mutations in MUTATIONS.values() for mutation in mutations})
        print(f"{rules} of {len(BY_ID)} rules x {len(cleans)} adapters: {found} of {tried} = {found / max(tried, 1):.1%}")
        print("\n".join(faults))
        sys.exit(found < tried)


if __name__ == "__main__":
    main()
