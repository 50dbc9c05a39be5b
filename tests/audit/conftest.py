"""The clean adapters, built once a session."""

from __future__ import annotations

import pytest

from tests.audit.clean import Clean, build_clean_set


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clean]:
    return build_clean_set(tmp_path_factory.mktemp("clean"))
