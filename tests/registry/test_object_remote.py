"""Remotes of objects in a folder: writers at once, killed writers, hostile contents, and what a URL may say."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from adreg.errors import ConflictError, FormatError, IntegrityError, MissingExtra, NotFoundError, RemoteError, UsageError
from adreg.registry.remotes.objects import folder as folderstore
from adreg.registry.remotes.objects import store as objectstore
from adreg.registry.remotes.objects.layout import blob_key
from adreg.registry.remotes.objects.remote import open_object_store
from tests.registry.remote_contract import RACERS, RemoteContract, digest_of, make_sample

WRITER = """
import sys, time
from pathlib import Path
from tests.registry.remote_contract import make_sample
from adreg.registry.remotes.objects.remote import open_object_store
url, folder, start, seeds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
samples = [make_sample(folder / seed, int(seed)) for seed in seeds]
remote = open_object_store(url)
time.sleep(max(0, start - time.time()))
for sample in samples:
    print(sample.send(remote), sample.manifest.digest, flush=True)
"""
SENDER = """
import sys
from pathlib import Path
from adreg.registry.remotes.objects.remote import open_object_store
url, digest, size, source = sys.argv[1:]
remote = open_object_store(url)
remote.store_blob(digest, int(size), Path(source))
print("sent", flush=True)
"""


class TestFolder(RemoteContract):
    @pytest.fixture
    def open_remote(self, tmp_path):
        return lambda: open_object_store((tmp_path / "remote").as_uri())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "my remote"


@pytest.fixture
def url(folder):
    return folder.as_uri()


@pytest.fixture
def sample(tmp_path):
    return make_sample(tmp_path / "sample", 1)


def run(program, *words):
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def test_processes_at_once_get_dense_numbers(url, folder, tmp_path):
    start = time.time() + 2.5
    writers = [run(WRITER, url, tmp_path / str(n), start, *range(n, n + 5)) for n in range(RACERS)]
    lines = [line.split() for writer in writers for line in writer.communicate(timeout=60)[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0] * RACERS and len(lines) == RACERS * 5
    found = {each.digest: each.number for each in open_object_store(url).versions("team/voice")}
    assert sorted(found.values()) == list(range(1, RACERS + 5))
    assert {digest: int(number) for number, digest in lines} == found
    assert list((folder / folderstore.UNFINISHED).iterdir()) == []


def test_a_killed_writer_leaves_nothing_to_see_and_the_next_one_succeeds(url, folder, tmp_path):
    source = tmp_path / "big"
    source.write_bytes(os.urandom(1 << 20) * 64)
    digest, size = digest_of(source), source.stat().st_size
    torn, there, unfinished = 0, folder / blob_key(digest), folder / folderstore.UNFINISHED
    for delay in (0, 0.01, 0.02, 0.04, 0.08, 0.16):
        sender = run(SENDER, url, digest, size, source)
        while sender.poll() is None and not any(unfinished.glob("*")):
            time.sleep(0.001)
        time.sleep(delay)
        sender.send_signal(signal.SIGKILL)
        sent = "sent" in sender.communicate()[0]
        torn += any(unfinished.glob("*")) and not there.exists()
        assert there.exists() or not sent
        assert not there.exists() or digest_of(there) == digest
        shutil.rmtree(folder)
    assert torn, "no kill met a writer at work"
    remote = open_object_store(url)
    remote.store_blob(digest, size, source)
    assert remote.has_blob(digest)
    shutil.rmtree(folder)


def test_what_killed_writers_left_goes_after_a_day(url, folder, sample):
    left = folder / folderstore.UNFINISHED
    left.mkdir(parents=True)
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        (left / name).write_bytes(b"half")
        os.utime(left / name, (time.time() - age,) * 2)
    sample.send(open_object_store(url))
    assert [path.name for path in left.iterdir()] == ["young"]


def test_a_place_that_holds_other_things_is_refused_and_left_alone(url, folder):
    folder.mkdir()
    (folder / "thesis.odt").write_text("years of work")
    with pytest.raises(ConflictError, match="other things"):
        open_object_store(url)
    assert [path.name for path in folder.iterdir()] == ["thesis.odt"]


MARKERS = ['{"format": "adreg-remote", "version": 2}', '{"format": "other", "version": 1}', "[]", "no json", '{"version": 1}']


@pytest.mark.parametrize("marker", MARKERS)
def test_a_newer_or_foreign_marker_is_refused(url, folder, marker):
    folder.mkdir()
    (folder / "adreg-remote.json").write_text(marker)
    with pytest.raises(RemoteError, match="newer adreg" if "2" in marker else "no remote of adreg"):
        open_object_store(url)


def version_file(folder, number=1):
    return folder / f"adapters/team/voice/versions/{number}.json"


def hostile(manifest, number=1, **changes):
    return json.dumps({**manifest.as_json(), "number": number, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        lambda m: hostile(m, name="../../etc/passwd"),
        lambda m: hostile(m, name="team/other"),
        lambda m: hostile(m, number=2),
        lambda m: hostile(m, digest="sha256:" + "0" * 64),
        lambda m: hostile(m, files={"a": {"digest": "../../x", "size": 1}}),
        lambda m: hostile(m, notes="x" * (objectstore.JSON_LIMIT + 1)),
        lambda m: hostile(m)[:-9],
        lambda m: hostile(m, more=1),
        lambda m: b'{"a":' * 100_000,
        lambda m: b"",
    ],
)
def test_a_hostile_manifest_is_refused(url, folder, sample, content):
    sample.send(open_object_store(url))
    path = version_file(folder)
    path.unlink()
    path.write_bytes(content(sample.manifest))
    with pytest.raises(FormatError):
        open_object_store(url).versions("team/voice")


@pytest.mark.parametrize("entry", [b'{"digest": "x", "id": "a"}', b'{"digest": null}', b"[]", b""])
def test_a_hostile_alias_is_refused(url, folder, sample, entry):
    remote = open_object_store(url)
    sample.send(remote)
    remote.set_alias("team/voice", "prod", sample.manifest.digest, None)
    (folder / "adapters/team/voice/aliases/prod/2.json").write_bytes(entry)
    with pytest.raises(FormatError):
        remote.aliases("team/voice")


def test_the_last_number_ends_a_row_and_does_not_wrap(url, folder, sample, tmp_path):
    remote = open_object_store(url)
    sample.send(remote)
    version_file(folder, 999_999_999).write_bytes(hostile(sample.manifest, 999_999_999))
    with pytest.raises(RemoteError, match="no more versions"):
        make_sample(tmp_path / "next", 2).send(remote)


def test_bytes_of_another_size_are_refused_before_they_are_fetched(url, folder, sample, tmp_path):
    remote = open_object_store(url)
    sample.send(remote)
    entry = sample.manifest.files["adapter_model.safetensors"]
    there = folder / blob_key(entry.digest)
    there.unlink()
    there.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="5 bytes"):
        remote.fetch_blob(entry.digest, entry.size, tmp_path / "out")
    with pytest.raises(IntegrityError, match="remove that object"):
        remote.store_blob(entry.digest, entry.size, sample.files["adapter_model.safetensors"])
    assert not (tmp_path / "out").exists() and there.read_bytes() == b"short"


def test_links_in_a_folder_are_not_followed(url, folder, sample, tmp_path):
    remote = open_object_store(url)
    sample.send(remote)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "adapters/team/voice/versions/2.json").symlink_to("/etc/passwd")
    with pytest.raises(RemoteError):
        remote.versions("team/voice")
    shutil.rmtree(folder / "blobs")
    (folder / "blobs").symlink_to(elsewhere)
    entry, source = sample.manifest.files["adapter_config.json"], sample.files["adapter_config.json"]
    for action in (lambda: remote.has_blob(entry.digest), lambda: remote.store_blob(entry.digest, entry.size, source)):
        with pytest.raises(RemoteError, match="symbolic link"):
            action()
    assert list(elsewhere.iterdir()) == []


def test_a_pipe_in_a_folder_does_not_hang(url, folder, sample):
    remote = open_object_store(url)
    sample.send(remote)
    os.mkfifo(version_file(folder, 2))
    with pytest.raises(RemoteError, match="regular file"):
        remote.versions("team/voice")


def test_a_removed_alias_is_gone_and_can_come_back(url, folder, sample):
    remote, digest = open_object_store(url), sample.manifest.digest
    sample.send(remote)
    remote.set_alias("team/voice", "prod", digest, None)
    with pytest.raises(ConflictError):
        remote.remove_alias("team/voice", "prod", "sha256:" + "0" * 64)
    remote.remove_alias("team/voice", "prod", digest)
    assert remote.aliases("team/voice") == {}
    remote.set_alias("team/voice", "prod", digest, None)
    assert remote.aliases("team/voice") == {"prod": digest}
    assert sorted(path.name for path in (folder / "adapters/team/voice/aliases/prod").iterdir()) == [
        "1.json",
        "2.json",
        "3.json",
    ]


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3:///x", "s3://Bucket/x", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/a?b",
     "s3:b", "file://relative", "file:///a/../b", "file:///%00", "http://host/x", "/plain", "memory://x", ""],
)  # fmt: skip
def test_what_is_no_object_store_is_refused_without_showing_secrets(text):
    with pytest.raises(UsageError) as caught:
        open_object_store(text)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_client_is_named():
    with pytest.raises(MissingExtra) as caught:
        open_object_store("gs://bucket/prefix")
    assert (caught.value.package, caught.value.extra) == ("gcsfs", "gcs")


def test_a_missing_file_is_not_found(url, tmp_path):
    with pytest.raises(NotFoundError):
        open_object_store(url).fetch_blob("sha256:" + "0" * 64, 1, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_remote_error(tmp_path, sample):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RemoteError):
        sample.send(open_object_store((tmp_path / "file" / "remote").as_uri()))
