"""Remotes of objects in S3, as moto's server speaks it, well-behaved and not."""

import os
import uuid

import pytest

from adreg.errors import ConflictError, FormatError, RemoteError
from adreg.registry.remotes.objects import store as objectstore
from adreg.registry.remotes.objects.layout import blob_key
from adreg.registry.remotes.objects.remote import open_object_store
from tests.registry.remote_contract import RemoteContract, digest_of, make_sample
from tests.registry.s3server import Faults, serve_s3


@pytest.fixture(scope="module")
def s3_server():
    with serve_s3() as s3:
        yield s3


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server, well-behaved, with this test's environment pointing at it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    s3_server.door.faults = Faults()
    yield s3_server
    s3_server.door.faults = Faults()


@pytest.fixture
def bucket(s3):
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    assert s3.request("PUT", name)[0] == 200
    return name


@pytest.fixture
def sample(tmp_path):
    return make_sample(tmp_path / "sample", 1)


class TestS3(RemoteContract):
    @pytest.fixture
    def open_remote(self, bucket):
        return lambda: open_object_store(f"s3://{bucket}/deep/prefix")


def test_a_prefix_in_use_is_refused(s3, bucket):
    s3.request("PUT", f"{bucket}/mine/photo.jpg", b"x")
    with pytest.raises(ConflictError, match="other things"):
        open_object_store(f"s3://{bucket}/mine")
    with pytest.raises(ConflictError, match="other things"):
        open_object_store(f"s3://{bucket}")
    assert open_object_store(f"s3://{bucket}/min").names() == []


def test_a_giant_manifest_is_not_read_from_s3(s3, bucket, sample):
    remote = open_object_store(f"s3://{bucket}/r")
    sample.send(remote)
    s3.request("PUT", f"{bucket}/r/adapters/team/voice/versions/2.json", b" " * (objectstore.JSON_LIMIT * 3))
    s3.door.faults.requests.clear()
    with pytest.raises(FormatError, match="larger than"):
        remote.versions("team/voice")
    reads = [line for line in s3.door.faults.requests if "versions/2.json" in line]
    assert len(reads) == 1 and reads[0].endswith(f"bytes=0-{objectstore.JSON_LIMIT}")


def test_listed_names_that_adreg_would_not_give_do_not_exist(s3, bucket, sample):
    remote = open_object_store(f"s3://{bucket}/r")
    sample.send(remote)
    for key in (
        "..%2Fescape/versions/1.json", "team/..%2F..%2Fx/versions/1.json", "UPPER/x/versions/1.json",
        "team/%00/versions/1.json", "team/voice/versions/01.json", "team/voice/versions/0.json",
        "team/voice/versions/2.json.bak", "team/voice/versions/%D9%A3.json",
        "team/voice/aliases/5/1.json", "team/voice/aliases/-x/1.json", "loose.json",
    ):  # fmt: skip
        assert s3.request("PUT", f"{bucket}/r/adapters/{key}", b"{}")[0] == 200, key
    assert remote.names() == ["team/voice"] and remote.aliases("team/voice") == {}
    assert [each.number for each in remote.versions("team/voice")] == [1]


def test_large_files_go_in_parts_under_the_condition_and_come_in_ranges(s3, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(objectstore, "PIECE", 5 << 20)
    source, out = tmp_path / "big", tmp_path / "out"
    source.write_bytes(os.urandom(1 << 20) * 12)
    digest, size = digest_of(source), source.stat().st_size
    remote = open_object_store(f"s3://{bucket}/r")
    remote.store_blob(digest, size, source)
    remote.fetch_blob(digest, size, out)
    assert out.read_bytes() == source.read_bytes()
    seen = [line for line in s3.door.faults.requests if digest[7:] in line]
    assert sum("partNumber=" in line for line in seen) == 3 and sum("bytes=" in line for line in seen) == 3
    assert not remote.store.upload(blob_key(digest), source)


def test_moto_honours_the_condition_of_a_put_and_of_a_multipart_upload(s3, bucket):
    once = {"If-None-Match": "*"}
    assert [s3.request("PUT", f"{bucket}/put", b"1", **once)[0] for _ in range(2)] == [200, 412]
    statuses = []
    for _ in range(2):
        upload = s3.request("POST", f"{bucket}/parts?uploads")[1].decode().partition("<UploadId>")[2].partition("<")[0]
        assert s3.request("PUT", f"{bucket}/parts?partNumber=1&uploadId={upload}", b"x")[0] == 200
        part = "<Part><PartNumber>1</PartNumber><ETag>9dd4e461268c8034f5c8564e155c67a6</ETag></Part>"
        whole = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
        statuses.append(s3.request("POST", f"{bucket}/parts?uploadId={upload}", whole, **once)[0])
    assert statuses == [200, 412]


def test_a_store_that_overwrites_is_found_out_before_anything_is_stored(s3, bucket, sample):
    s3.door.faults.ignore_conditions = True
    with pytest.raises(RemoteError, match="If-None-Match"):
        sample.send(open_object_store(f"s3://{bucket}/r"))
    assert open_object_store(f"s3://{bucket}/r").names() == []


def test_requests_that_meet_are_sent_again(s3, bucket, sample):
    s3.door.faults.conflict = 3
    assert sample.send(open_object_store(f"s3://{bucket}/r")) == 1


def test_a_change_whose_answer_got_lost_is_not_taken_for_anothers(s3, bucket, sample):
    remote = open_object_store(f"s3://{bucket}/r")
    sample.send(remote)
    s3.door.faults.lose_answers = 1
    remote.set_alias("team/voice", "prod", sample.manifest.digest, None)
    assert s3.door.faults.lose_answers == 0 and remote.aliases("team/voice") == {"prod": sample.manifest.digest}


def test_a_truncated_answer_is_noticed_and_the_next_fetch_goes_on(s3, bucket, sample, tmp_path):
    remote = open_object_store(f"s3://{bucket}/r")
    sample.send(remote)
    entry, out = sample.manifest.files["adapter_model.safetensors"], tmp_path / "out"
    s3.door.faults.cut_at = 50
    with pytest.raises(RemoteError):
        remote.fetch_blob(entry.digest, entry.size, out)
    s3.door.faults.cut_at = None
    remote.fetch_blob(entry.digest, entry.size, out)
    assert out.read_bytes() == sample.files["adapter_model.safetensors"].read_bytes()


def test_throttling_is_waited_out_and_then_reported(s3, bucket):
    s3.door.faults.slow_down = 2
    assert open_object_store(f"s3://{bucket}/r").names() == []
    s3.door.faults.slow_down = 1000
    with pytest.raises(RemoteError, match="busy") as caught:
        open_object_store(f"s3://{bucket}/r")
    assert "try again" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "why", "hint"),
    [
        ({"AWS_ACCESS_KEY_ID": "somebody-else"}, "access was denied", "AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials", "AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "connect", "AWS_ENDPOINT_URL"),
    ],
)
def test_wrong_credentials_and_addresses_are_told_apart(s3, bucket, monkeypatch, changes, why, hint):
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(RemoteError, match=why) as caught:
        open_object_store(f"s3://{bucket}/r")
    assert hint in caught.value.hint


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(RemoteError, match="no such bucket"):
        open_object_store("s3://nobody-has-this/r")
