import json
import os
import stat

import pytest

from adreg.errors import ConflictError, NotFoundError, UsageError
from adreg.registry.remotes.catalog import Remotes, check_url, open_remote
from adreg.registry.remotes.http.remote import HttpRemote
from adreg.registry.remotes.tokenfile import forget_token, keep_token, token_for
from tests.registry.http_tools import make_adapter, push

URL = "http://127.0.0.1:9"


def test_a_remote_is_remembered_and_forgotten(registry):
    remotes = Remotes(registry)
    assert remotes.add("lab", URL + "/").url == URL and remotes.add("lab", URL).url == URL
    with pytest.raises(ConflictError):
        remotes.add("lab", "http://127.0.0.1:10")
    with pytest.raises(NotFoundError) as caught:
        remotes.get("lap")
    assert caught.value.close == ("lab",)
    remotes.remove("lab")
    assert remotes.all() == []


def test_a_name_is_a_remote_or_a_namespace_never_both(registry, tmp_path):
    push(registry, make_adapter(tmp_path / "a"), "team/voice")
    push(registry, make_adapter(tmp_path / "b", 1), "lab")
    with pytest.raises(ConflictError, match="namespace"):
        Remotes(registry).add("team", URL)
    Remotes(registry).add("lab", URL)
    Remotes(registry).add("tea", URL)
    with pytest.raises(ConflictError, match="remote"):
        push(registry, make_adapter(tmp_path / "c", 2), "lab/voice")


@pytest.mark.parametrize("name", ["Lab", "a/b", "..", "-x", "_", "", "x" * 97, "lab:1", "hf:x", "l\u0430b"])
def test_names_that_cannot_be_are_refused(registry, name):
    with pytest.raises(UsageError):
        Remotes(registry).add(name, URL)


BAD_URLS = [
    "", "lab", "127.0.0.1:80", "ftp://host", "http://", "http://user:secret@host", "http://token@host", "https://host?token=1",
    "http://host#x", "http://host/?", "http://host:99999", "http://ho st", "http://[::1", "javascript:1", "http://host/../x",
    "http://host/\n", "https://höst/", "file://user@/x", "http:///v1", "HF://x",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_with_secrets_or_without_sense_are_refused(url):
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_kinds_are_opened_by_their_url(tmp_path):
    assert isinstance(open_remote("https://host/base", tmp_path), HttpRemote)
    assert open_remote(f"file://{tmp_path}/store", tmp_path).url == f"file://{tmp_path}/store"


def test_a_token_is_kept_for_one_url_in_a_file_of_ones_own(registry, monkeypatch):
    home = registry.settings.home
    home.mkdir(exist_ok=True)
    os.umask(0o022)
    keep_token("http://host:1/", "adr_one", home)
    keep_token("http://other", "adr_two", home)
    path = home / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(json.loads(path.read_text())) == 2
    assert token_for("http://host:1", home) == "adr_one"
    assert token_for("http://host:2", home) is None and token_for("https://host:1", home) is None
    forget_token("http://host:1", home)
    assert token_for("http://host:1", home) is None and token_for("http://other", home) == "adr_two"
    monkeypatch.setenv("ADREG_TOKEN", "adr_env")
    assert token_for("http://other", home) == "adr_env"
    with pytest.raises(UsageError):
        keep_token("http://host", "a b", home)
