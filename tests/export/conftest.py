"""The bases and adapters of the folding tests, each built once a session."""

from __future__ import annotations

import pytest

from tests.export.folding import BASES, CASES, build_base, build_case


@pytest.fixture(scope="session")
def fold_bases(tmp_path_factory):
    place = tmp_path_factory.mktemp("fold-bases")
    return {kind: build_base(place / kind, kind) for kind in BASES}


@pytest.fixture(scope="session")
def fold_adapters(fold_bases, tmp_path_factory):
    """The folder of the adapter of a case, built when it is first asked for."""
    place, built = tmp_path_factory.mktemp("fold-adapters"), {}

    def folder(name):
        if name not in built:
            built[name] = build_case(CASES[name], fold_bases[CASES[name].base], place / name)
        return built[name]

    return folder
