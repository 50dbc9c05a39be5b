"""Where upstreams listen and which key opens them, as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adreg.errors import UsageError
from adreg.serve.gateway.addresses import upstream_key, upstreams
from adreg.serve.gateway.dialects import NamesDialect


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.7:8000",
        "ftp://a",
        "http://",
        "http://a:x",
        "http://a:0",
        "http://k:s@a",
        "http://a?x=1",
        "http://a b",
        "http://ü",
    ],
)
def test_an_upstream_that_cannot_be_meant_is_refused_without_telling_its_secret(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        upstreams([url], NamesDialect(), None)
    assert "k:s" not in str(refused.value)


def test_upstreams_are_named_as_people_name_them_and_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    found = upstreams(["http://a:8000/v1/", "https://b/engine"], NamesDialect(), None)
    assert [one.url for one in found] == ["http://a:8000", "https://b/engine"]
    with pytest.raises(UsageError, match="named twice"):
        upstreams(["http://a/v1", "http://a"], NamesDialect(), None)
    (tmp_path / "key").write_text("s3cret\n")
    assert upstream_key(tmp_path / "key", {"ADREG_UPSTREAM_KEY": "other"}) == "s3cret"
    assert upstream_key(None, {"ADREG_UPSTREAM_KEY": "other"}) == "other"
    assert upstream_key(None, {}) is None
    (tmp_path / "key").write_text("two\r\nx-other: lines")
    with pytest.raises(UsageError, match="holds no key"):
        upstream_key(tmp_path / "key", {})
