from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from adreg.cli.errors import exit_code
from adreg.errors import ConflictError, FormatError, IntegrityError, NotFoundError, PickleRefused, RemoteError, UsageError
from adreg.registry.hub.card import compose_card, marked
from adreg.registry.hub.client import Hub
from adreg.registry.hub.errors import hub_errors
from adreg.registry.hub.fetch import fetch
from adreg.registry.hub.publish import plan_publish, publish
from adreg.registry.hub.reference import parse_hub_reference
from tests.registry.hubserver import READER, TOKEN, git_sha1, running_hub, sha256

# huggingface_hub 2.4 hands file objects to httpx2 in a way that httpx2 2.16 has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = parse_hub_reference("hf:team/voice")
CARD = compose_card({"library_name": "peft", "tags": ["lora"]}, marked("# voice"))
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "tiny"}


@pytest.fixture
def online(monkeypatch):
    """The real client, allowed to talk: tests run with HF_HUB_OFFLINE=1, which it reads once, when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(online):
    with running_hub() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    """A PEFT adapter whose weights are large enough for LFS."""
    return write_adapter(tmp_path / "adapter", 1)


def write_adapter(folder, seed):
    folder.mkdir()
    random = np.random.default_rng(seed)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (4, 512), "B": (512, 4)}
    tensors = {name.format(half): random.standard_normal(shape).astype("float32") for half, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "loss.svg").write_text("<svg/>")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reader(hub):
    return Hub(hub.url)


def writer(hub):
    return Hub(hub.url, TOKEN)


def send(hub, folder, **choices):
    return publish(plan_publish(folder, REPO, CARD, writer(hub), **choices), False, writer(hub))


@pytest.mark.parametrize(
    "text", ["hf:voice", "hf:team/Voice-1.b_c", "hf:team/voice@v1.0", f"hf:team/voice@{'a1' * 20}", "hf:a/b@refs/pr/1"]
)
def test_a_hub_reference_is_what_it_says(text):
    assert str(parse_hub_reference(text)) == text


NO_REFERENCES = ["team/voice", "hf:", "hf:/voice", "hf:a/b/c", "hf:../voice", "hf:team/..", "hf:team/voice@", "hf:-a/b"]
NO_REFERENCES += ["hf:team/voice@../x", "hf:team/vo ice", "hf:team/voicé", "hf:team/v\n", "hf:team/voice@a..b", "hf:t%2e/voice"]
NO_REFERENCES += ["hf:team\\voice", "hf:" + "a" * 97]


@pytest.mark.parametrize("text", NO_REFERENCES)
def test_everything_else_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_hub_reference(text)


def test_what_is_published_comes_back_byte_for_byte(hub, folder, tmp_path):
    plan = plan_publish(folder, REPO, CARD, writer(hub))
    assert plan.parent is None and not hub.commits, "planning changes nothing"
    commit = publish(plan, True, writer(hub))
    assert hub.private == {"team/voice"} and hub.heads["team/voice"]["main"] == commit
    assert sha256((folder / "adapter_model.safetensors").read_bytes()) in hub.objects, "the weights went through LFS"
    copy = fetch(REPO, tmp_path / "copy", Hub(hub.url, READER))
    assert copy.commit == commit and copy.skipped == (".gitattributes",)
    assert content(tmp_path / "copy") == content(folder) | {"README.md": CARD.encode()}
    assert not any(path.is_symlink() for path in (tmp_path / "copy").iterdir())


def test_the_bytes_are_those_of_the_commit_even_when_the_branch_moves_meanwhile(hub, folder, tmp_path):
    first = hub.commit("team/voice", content(folder))
    other = content(write_adapter(tmp_path / "other", 2))

    def move():
        hub.faults.before_file = None
        hub.commit("team/voice", other)

    hub.faults.before_file = move
    copy = fetch(REPO, tmp_path / "copy", reader(hub))
    assert copy.commit == first and content(tmp_path / "copy") == content(folder)
    pinned = fetch(parse_hub_reference(f"hf:team/voice@{first}"), tmp_path / "again", reader(hub))
    assert pinned.commit == first and content(tmp_path / "again") == content(folder)
    assert fetch(REPO, tmp_path / "newest", reader(hub)).commit != first


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", [lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda raw: raw[:-1], lambda raw: raw + b"x"])
def test_other_bytes_than_the_listed_ones_are_noticed_and_nothing_is_left(hub, folder, tmp_path, name, damage):
    hub.commit("team/voice", content(folder))
    hub.faults.bytes[name] = damage((folder / name).read_bytes())
    with pytest.raises(IntegrityError, match=name):
        fetch(REPO, tmp_path / "copy", reader(hub))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_file_that_is_longer_than_listed_is_not_read_to_its_end(hub, folder, tmp_path):
    hub.commit("team/voice", content(folder))
    hub.faults.bytes["adapter_config.json"] = bytes(30 << 20)
    with pytest.raises(IntegrityError, match="longer than the"):
        fetch(REPO, tmp_path / "copy", reader(hub))


def test_a_transfer_that_breaks_goes_on_where_it_was_and_fails_cleanly_when_it_keeps_breaking(hub, folder, tmp_path):
    hub.commit("team/voice", content(folder))
    name = "adapter_model.safetensors"
    half = len((folder / name).read_bytes()) // 2 + 1
    hub.faults.cut[name] = half
    fetch(REPO, tmp_path / "copy", reader(hub))
    assert content(tmp_path / "copy") == content(folder)
    hub.faults.cut[name] = 100
    with pytest.raises(RemoteError, match="connection failed") as caught:
        fetch(REPO, tmp_path / "other", reader(hub))
    assert exit_code(caught.value) == 6 and not list(tmp_path.glob("*other*"))


HOSTILE = ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "adapter_config.json/../../x", "ADAPTER_CONFIG.JSON", "x" * 300]
HOSTILE += ["аdapter_config.json", "README.md\0", "link -> /etc", ".", "..", "", "sub/adapter_config.json", "~/x", "readme.md"]


def test_hostile_listings_write_nothing_outside(hub, folder, tmp_path):
    hub.commit("team/voice", content(folder))
    entry = {"size": 3, "blobId": git_sha1(b"bad")}
    hub.faults.listing = [{"rfilename": name, **entry} for name in HOSTILE] + [{"rfilename": 7, **entry}]
    hub.faults.bytes = dict.fromkeys(HOSTILE, b"bad")
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching[0] and writes(event, args) else None)
    copy = fetch(REPO, tmp_path / "copy", reader(hub))
    watching[0] = False
    assert {path.name for path in (tmp_path / "copy").iterdir()} == set(content(folder))
    assert len(opened) == 3 and all(name.startswith(str(tmp_path)) for name in opened), opened
    assert len(copy.skipped) == len(HOSTILE) + 1 and max(map(len, copy.skipped)) <= 120
    assert {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line} == set(content(folder))


def writes(event, args):
    return event == "open" and isinstance(args[0], str | os.PathLike) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"rfilename": "LICENSE"}, "no size"),
        ({"rfilename": "LICENSE", "size": -1, "blobId": "0" * 40}, "no size"),
        ({"rfilename": "LICENSE", "size": 3}, "no checksum"),
        ({"rfilename": "LICENSE", "size": 3, "blobId": "../../x"}, "no checksum"),
        ({"rfilename": "adapter_config.json", "size": 3, "blobId": "0" * 40}, "twice"),
    ],
)
def test_a_listing_that_cannot_be_checked_is_refused(hub, folder, tmp_path, entry, why):
    hub.commit("team/voice", content(folder))
    hub.faults.listing = [entry]
    with pytest.raises(IntegrityError, match=why):
        fetch(REPO, tmp_path / "copy", reader(hub))


def test_another_commit_than_the_pinned_one_is_refused(hub, folder, tmp_path):
    commit = hub.commit("team/voice", content(folder))
    hub.faults.sha = "0" * 40
    with pytest.raises(IntegrityError, match="another commit"):
        fetch(parse_hub_reference(f"hf:team/voice@{commit}"), tmp_path / "copy", reader(hub))
    hub.faults.sha = "../../x"
    with pytest.raises(RemoteError, match="no commit"):
        fetch(REPO, tmp_path / "copy", reader(hub))


def test_repositories_without_a_safe_adapter_are_refused_before_any_download(hub, folder, tmp_path):
    files = content(folder)
    weights = files.pop("adapter_model.safetensors")
    hub.commit("team/voice", files | {"adapter_model.bin": b"\x80\x04"})
    with pytest.raises(PickleRefused):
        fetch(REPO, tmp_path / "copy", reader(hub))
    hub.commit("team/voice", {"adapter_model.safetensors": weights})
    with pytest.raises(FormatError, match=r"adapter_config\.json"):
        fetch(REPO, tmp_path / "copy", reader(hub))
    hub.commit("team/voice", content(folder))
    hub.faults.listing = [{"rfilename": "tokenizer.json", "size": 1 << 40, "blobId": "0" * 40}]
    with pytest.raises(FormatError, match="larger"):
        fetch(REPO, tmp_path / "copy", reader(hub))
    assert not any("/resolve/" in line for line in hub.asked)


def test_what_is_not_there_or_not_allowed_says_so(hub, folder, tmp_path, monkeypatch):
    def error_of(text="hf:team/voice", client=None):
        with pytest.raises((NotFoundError, RemoteError)) as caught:
            fetch(parse_hub_reference(text), tmp_path / "copy", client or reader(hub))
        return exit_code(caught.value), str(caught.value)

    assert error_of()[0] == 6 and "no access" in error_of()[1], "the hub says 401 to strangers"
    assert error_of(client=writer(hub)) == (3, "no hub repository 'team/voice'")
    hub.commit("team/voice", content(folder))
    hub.private.add("team/voice")
    assert error_of()[0] == 6
    assert error_of("hf:team/voice@nowhere", writer(hub)) == (3, "no hub revision 'hf:team/voice@nowhere'")
    for status in (403, 429, 500, 302):
        hub.faults.status = status
        assert error_of(client=writer(hub))[0] == 6, status
    assert error_of(client=Hub("http://127.0.0.1:9"))[0] == 6
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline" in error_of()[1]
    assert not (tmp_path / "copy").exists()


def test_the_storage_behind_the_hub_refuses_in_words_and_local_files_keep_their_own():
    hf_xet = pytest.importorskip("hf_xet")
    with pytest.raises(RemoteError, match="storage refused: expired"), hub_errors(REPO):
        raise hf_xet.XetAuthenticationError("expired")
    with pytest.raises(PermissionError), hub_errors(REPO):
        raise PermissionError("a file here")


def test_the_saved_token_goes_only_to_the_hub_it_was_saved_for(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.commit("team/voice", content(folder))
    hub.private.add("team/voice")
    with pytest.raises(RemoteError):
        fetch(REPO, tmp_path / "copy", reader(hub))
    code = (
        "from pathlib import Path; from adreg.registry.hub.fetch import fetch;"
        "from adreg.registry.hub.reference import parse_hub_reference;"
        f"fetch(parse_hub_reference('hf:team/voice'), Path({str(tmp_path / 'copy')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url}, check=True)
    assert content(tmp_path / "copy") == content(folder)


def test_whoever_commits_meanwhile_is_not_overwritten(hub, folder):
    first = send(hub, folder)
    (folder / "loss.svg").write_text("<svg>2</svg>")
    plan = plan_publish(folder, REPO, CARD, writer(hub))
    theirs = hub.commit("team/voice", {**hub.head("team/voice"), "notes.txt": b"mine"})
    with pytest.raises(ConflictError, match=f"not at {first[:12]}") as caught:
        plan_publish(folder, REPO, CARD, writer(hub), parent=first)
    assert exit_code(caught.value) == 4 and caught.value.hint
    with pytest.raises(ConflictError, match="changed meanwhile"):
        publish(plan, False, writer(hub))
    assert hub.heads["team/voice"]["main"] == theirs


def test_two_who_make_the_same_repository_do_not_share_it(hub, folder):
    plan = plan_publish(folder, REPO, CARD, writer(hub))
    hub.commit("team/voice", {"theirs.txt": b"1"})
    with pytest.raises(ConflictError):
        publish(plan, False, writer(hub))
    assert set(hub.head("team/voice")) == {"theirs.txt"}


def test_writing_needs_a_token_that_may(hub, folder):
    for token in (None, READER):
        with pytest.raises(RemoteError) as caught:
            publish(plan_publish(folder, REPO, CARD, writer(hub)), False, Hub(hub.url, token))
        assert exit_code(caught.value) == 6 and "token" in str(caught.value) + caught.value.hint
    assert not hub.commits


def test_only_names_of_a_version_go_up_and_stale_records_go(hub, folder):
    (folder / "secret.env").write_text("KEY=1")
    (folder / "README.md").write_text("what lay in the folder")
    hub.commit("team/voice", {"adreg.json": b"{}", "LICENSE": b"theirs", "notes.txt": b"theirs"})
    plan = plan_publish(folder, REPO, CARD, writer(hub))
    assert plan.skipped == ("secret.env",) and plan.removed == ("adreg.json",)
    publish(plan, False, writer(hub))
    assert set(hub.head("team/voice")) == set(content(folder)) - {"secret.env"} | {"LICENSE", "notes.txt"}
    assert hub.head("team/voice")["README.md"] == CARD.encode()


def test_publishing_the_same_again_makes_no_commit(hub, folder):
    assert send(hub, folder) == send(hub, folder)


def test_a_card_that_a_person_wrote_stays(hub, folder):
    hub.commit("team/voice", {"README.md": b"# My own words\n"})
    with pytest.raises(ConflictError) as caught:
        plan_publish(folder, REPO, CARD, writer(hub))
    assert "--overwrite-card" in caught.value.hint
    send(hub, folder, overwrite_card=True)
    ours = hub.head("team/voice")["README.md"].decode()
    assert ours == CARD
    words = (
        ours.replace("tags:", "license: mit\ntags:\n- mine").replace("<!-- adreg:begin", "# Hello\n\n<!-- adreg:begin")
        + "\nBye\n"
    )
    hub.commit("team/voice", {**hub.head("team/voice"), "README.md": words.encode()})
    new = compose_card({"library_name": "peft", "tags": ["lora", "new"]}, marked("# changed"))
    publish(plan_publish(folder, REPO, new, writer(hub)), False, writer(hub))
    merged = hub.head("team/voice")["README.md"].decode()
    assert all(text in merged for text in ("# Hello", "Bye", "license: mit", "- mine", "- new", "# changed"))
    assert "# voice" not in merged


def test_a_hub_that_leaves_a_file_out_or_damages_it_is_noticed(hub, folder):
    hub.faults.ignored = {"adapter_config.json"}
    with pytest.raises(IntegrityError, match="does not hold adapter_config"):
        send(hub, folder)
    hub.faults.ignored = set()
    hub.faults.before_commit = lambda: hub.objects.update(dict.fromkeys(hub.objects, b"x" * 20_000))
    write_adapter(folder.parent / "other", 5)
    with pytest.raises(IntegrityError, match="other bytes"):
        send(hub, folder.parent / "other")
