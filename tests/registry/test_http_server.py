import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from adreg.errors import ConflictError, FormatError, IntegrityError, NotFoundError, StorageError
from adreg.references import parse_reference
from adreg.registry.aliases import Move
from adreg.registry.registry import Registry
from adreg.registry.remotes.http.remote import HttpRemote
from adreg.registry.server.answers import as_api_error
from adreg.registry.server.limits import Limits
from adreg.registry.store.database import transaction
from adreg.settings import Settings
from tests.registry.http_tools import files_under, make_adapter, push, remote, served

BODY = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
BLOB, UPLOAD = f"/v1/blobs/{DIGEST}", f"/v1/uploads/{DIGEST}"


@pytest.fixture
def client(registry):
    with served(registry.settings.home) as url, httpx2.Client(base_url=url) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A client of a server for tests that leave nothing behind but the blob BODY."""
    with served(tmp_path_factory.mktemp("shared")) as url, httpx2.Client(base_url=url) as found:
        yield found


def _kind(answer):
    return answer.status_code, answer.json()["error"]["type"]


def test_a_blob_is_stored_read_by_ranges_and_cached(registry, client):
    assert client.put(BLOB, content=BODY).status_code == 201 and client.put(BLOB, content=BODY).status_code == 200
    whole = client.get(BLOB)
    assert whole.content == BODY and whole.headers["etag"] == f'"{DIGEST}"' and "immutable" in whole.headers["cache-control"]
    for text, start, end in (("bytes=10-19", 10, 20), ("bytes=10000-", 10000, None), ("bytes=-7", -7, None)):
        part = client.get(BLOB, headers={"Range": text})
        assert part.status_code == 206 and part.content == BODY[start:end]
    head = client.head(BLOB)
    assert head.content == b"" and int(head.headers["content-length"]) == len(BODY)
    assert client.get(BLOB, headers={"If-None-Match": f'"{DIGEST}"'}).status_code == 304


BAD_RANGES = [
    "bytes=10240-", "bytes=5-2", "bytes=-0", "bytes=0-1,5-6", "bytes=", "bytes=a-b", "pages=1-2", "bytes=--1",
    "bytes=999999999999999999999999-",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_RANGES)
def test_ranges_outside_a_blob_are_refused(shared, text):
    shared.put(BLOB, content=BODY)
    assert _kind(shared.get(BLOB, headers={"Range": text})) == (416, "bad_range")


def test_wrong_bytes_are_refused_and_leave_nothing(registry, client):
    answer = client.put(BLOB, content=BODY[:-1] + b"?")
    assert _kind(answer) == (422, "wrong_digest")
    assert files_under(registry.settings.home / "tmp") == {} and not registry.blobs.path(DIGEST).exists()


LENGTHS = [
    ({"Content-Range": "bytes 0-10/10240"}, BODY, 400),
    ({"Content-Range": "bytes 0-10239/5"}, BODY, 400),
    ({"Content-Range": "octets 0-1/2"}, BODY, 400),
    ({"Content-Range": "bytes 5-10239/10240"}, BODY[5:], 409),
    ({"Content-Range": "bytes 99999999999990000-99999999999999999/100000000000000000"}, BODY[:10000], 413),
]


@pytest.mark.parametrize(("headers", "content", "status"), LENGTHS)
def test_lengths_that_do_not_fit_are_refused(shared, headers, content, status):
    other = "/v1/blobs/sha256:" + "5" * 64
    assert shared.put(other, content=content, headers=headers).status_code == status
    assert shared.head(other).status_code == 404


def test_an_upload_without_a_length_is_refused(shared):
    assert _kind(shared.put(BLOB, content=iter([BODY]))) == (411, "length_required")


def test_a_broken_upload_is_kept_for_its_sender_only(registry, client):
    _, secret = registry.tokens.create("push")
    _, other = registry.tokens.create("push")
    mine, theirs = ({"Authorization": f"Bearer {each}"} for each in (secret, other))
    with pytest.raises(httpx2.TransportError):
        client.put(BLOB, content=_breaking(BODY[:6000]), headers={**mine, "Content-Length": str(len(BODY))})
    _until(lambda: client.head(UPLOAD, headers=mine).headers["upload-offset"] == "6000")
    assert client.head(UPLOAD, headers=theirs).headers["upload-offset"] == "0"
    wrong = client.put(BLOB, content=BODY[5000:], headers={**mine, "Content-Range": "bytes 5000-10239/10240"})
    assert wrong.status_code == 409 and wrong.headers["upload-offset"] == "6000"
    right = client.put(BLOB, content=BODY[6000:], headers={**mine, "Content-Range": "bytes 6000-10239/10240"})
    assert right.status_code == 201 and client.get(BLOB, headers=mine).content == BODY
    assert client.get(BLOB, headers=theirs).status_code == 404, "no version leads them to it"


def _breaking(start):
    yield start
    time.sleep(0.2)
    raise httpx2.WriteError("the client dies here")


def _until(fact):
    for _ in range(100):
        if fact():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to be so")


def test_many_uploads_of_the_same_blob_at_once_end_in_one_whole_blob(registry, client):
    body = os.urandom(3_000_000)
    path = f"/v1/blobs/sha256:{hashlib.sha256(body).hexdigest()}"
    limits = Limits(uploads=6)
    with served(registry.settings.home, limits=limits) as url, ThreadPoolExecutor(12) as pool:
        wrong = [body[:-1] + bytes([body[-1] ^ 1]) if turn % 3 == 0 else body for turn in range(12)]
        answers = list(pool.map(lambda sent: httpx2.put(f"{url}{path}", content=sent, timeout=60), wrong))
    for sent, answer in zip(wrong, answers, strict=True):
        assert answer.status_code in ((200, 201, 429) if sent == body else (422, 429))
    assert any(answer.status_code in (200, 201) for answer in answers)
    assert client.get(path).content == body and files_under(registry.settings.home / "tmp") == {}


def test_more_uploads_than_allowed_are_put_off(registry):
    refused = threading.Event()

    def until_refused():
        yield BODY[:1000]
        refused.wait(10)
        yield BODY[1000:]

    with served(registry.settings.home, limits=Limits(uploads=1)) as url:
        slow = threading.Thread(target=lambda: httpx2.put(f"{url}{BLOB}", content=until_refused(), headers=_length(BODY)))
        slow.start()
        while not (registry.settings.home / "tmp" / "uploads").exists():  # it is made for the first who may send
            time.sleep(0.01)
        answer = httpx2.put(f"{url}{BLOB}", content=BODY)
        refused.set()
        slow.join()
        assert _kind(answer) == (429, "busy") and answer.headers["retry-after"] == "1"
        assert httpx2.put(f"{url}{BLOB}", content=BODY).status_code == 200


def _slowly(body):
    yield body[:1000]
    time.sleep(0.8)
    yield body[1000:]


def _length(body):
    return {"Content-Length": str(len(body))}


def test_a_sender_that_falls_silent_is_let_go(registry):
    with served(registry.settings.home, limits=Limits(idle_seconds=0.2)) as url:
        answer = httpx2.put(f"{url}{BLOB}", content=_slowly(BODY), headers=_length(BODY))
        assert _kind(answer) == (408, "timeout")
        assert httpx2.head(f"{url}{UPLOAD}").headers["upload-offset"] == "1000"


def test_a_disk_that_would_run_full_takes_no_upload(registry, client):
    with served(registry.settings.home, limits=Limits(disk_reserve=1 << 60)) as url:
        answer = httpx2.put(f"{url}{BLOB}", content=BODY)
    assert _kind(answer) == (507, "storage") and str(registry.settings.home) not in answer.text


def test_an_uploaded_blob_is_leased_until_its_version_is_posted(registry, client, tmp_path):
    folder = make_adapter(tmp_path / "a")
    there = HttpRemote(str(client.base_url))
    manifest = _manifest_of(tmp_path, folder)
    for name, file in manifest.files.items():
        there.store_blob(file.digest, file.size, folder / name)
    leases = registry.db.execute("select purpose, expires_at from lease").fetchall()
    assert len(leases) == 2 and all(expires > time.time() + 80_000 for _, expires in leases)
    there.add_version(manifest)
    assert registry.db.execute("select count(*) from lease").fetchone()[0] == 0


def _manifest_of(tmp_path, folder, name="voice"):
    """What another registry would send for an adapter folder."""
    other = Registry(Settings(tmp_path / "elsewhere"))
    return other.adapters.manifest(push(other, folder, name))


def test_a_version_whose_blobs_are_not_here_names_them(client, tmp_path):
    manifest = _manifest_of(tmp_path, make_adapter(tmp_path / "a"))
    answer = client.post("/v1/adapters/_/voice/versions", json=manifest.as_json())
    assert _kind(answer) == (409, "missing_blobs")
    assert set(answer.json()["error"]["missing"]) == {file.digest for file in manifest.files.values()}


MANIFEST_CHANGES = [
    ({"name": "team/voice"}, 400), ({"digest": "sha256:" + "0" * 64}, 422), ({"files": {}}, 422), ({"extra": 1}, 422),
    ({"notes": 5}, 422), ({"tags": ["../x"]}, 400), ({"number": -1}, 422), ({"parents": [{"digest": "x"}]}, 422),
    ({"trained_on": {"weights_id": "x"}}, 422), ({"name": "../../etc"}, 400), ({"created_at": None}, 422),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status"), MANIFEST_CHANGES, ids=str)
def test_a_manifest_that_is_none_is_refused(shared, tmp_path, change, status):
    manifest = _manifest_of(tmp_path, make_adapter(tmp_path / "a"))
    answer = shared.post("/v1/adapters/_/voice/versions", json={**manifest.as_json(), **change})
    assert answer.status_code == status, answer.text


def test_a_size_that_is_not_the_blobs_is_refused(client, registry, tmp_path):
    folder = make_adapter(tmp_path / "a")
    manifest = _manifest_of(tmp_path, folder)
    for name, file in manifest.files.items():
        remote(str(client.base_url)).store_blob(file.digest, file.size, folder / name)
    body = manifest.as_json()
    body["files"]["adapter_config.json"]["size"] += 1
    assert _kind(client.post("/v1/adapters/_/voice/versions", json=body)) == (422, "wrong_manifest")
    assert registry.adapters.names() == []


BODIES = [
    b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 900_000, b'{"a":' * 30 + b"1" + b"}" * 30,
    b'"' + b"\\" * 900_001,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
def test_bodies_that_are_no_plain_json_object_are_refused_at_once(shared, body):
    started = time.monotonic()
    assert _kind(shared.post("/v1/adapters/_/voice/versions", content=body)) == (400, "bad_request")
    assert time.monotonic() - started < 5


def test_a_body_beyond_the_limit_is_refused(shared):
    assert _kind(shared.post("/v1/adapters/_/voice/versions", content=b" " * 1_100_000)) == (413, "too_large")


def test_an_alias_moves_only_for_who_knows_what_it_means(registry, client, tmp_path):
    one, two = (push(registry, make_adapter(tmp_path / str(seed), seed)) for seed in range(2))
    place = "/v1/adapters/_/voice/aliases/prod"
    first, second = {"digest": one.digest}, {"digest": two.digest}
    assert client.put(place, json=first).status_code == 428
    assert client.put(place, json=first, headers={"If-Match": f'"{one.digest}"'}).status_code == 412
    assert client.put(place, json=first, headers={"If-None-Match": "*"}).headers["etag"] == f'"{one.digest}"'
    assert client.put(place, json=second, headers={"If-None-Match": "*"}).status_code == 412
    assert client.put(place, json=second, headers={"If-Match": client.get(place).headers["etag"]}).status_code == 200
    for headers in ({"If-Match": "x"}, {"If-None-Match": "x"}, {"If-Match": f'"{two.digest}"', "If-None-Match": "*"}):
        assert client.put(place, json=first, headers=headers).status_code == 400
    assert client.delete(place, headers={"If-Match": f'"{one.digest}"'}).status_code == 412
    assert client.delete(place, headers={"If-Match": f'"{two.digest}"'}).status_code == 204
    assert client.get(place).status_code == 404


def test_a_protected_alias_is_a_conflict_not_a_race(registry, client, tmp_path):
    one, two = (push(registry, make_adapter(tmp_path / str(seed), seed)) for seed in range(2))
    registry.adapters.set_alias(parse_reference("voice:1"), "prod", Move(protect=True))
    place, known = "/v1/adapters/_/voice/aliases/prod", {"If-Match": f'"{one.digest}"'}
    assert client.put(place, json={"digest": two.digest}, headers=known).status_code == 409
    assert client.delete(place, headers=known).status_code == 409
    with pytest.raises(ConflictError, match="protected"):
        HttpRemote(str(client.base_url)).set_alias("voice", "prod", two.digest, one.digest)


def test_of_sixteen_that_swap_an_alias_exactly_one_wins_each_round(registry, tmp_path):
    versions = [
        push(registry, make_adapter(tmp_path / str(seed), seed), alias="prod" if seed == 0 else None) for seed in range(5)
    ]
    with served(registry.settings.home) as url, ThreadPoolExecutor(16) as pool:
        remotes = [remote(url) for _ in range(16)]
        expect = versions[0].digest
        for turn in range(1, 6):
            goal = versions[turn % 5].digest
            won = list(pool.map(lambda each, goal=goal, expect=expect: _swapped(each, goal, expect), remotes))
            assert won.count(True) == 1
            expect = goal
            assert remotes[0].aliases("voice") == {"prod": goal}
    events = [event for event in registry.adapters.log("voice") if event.verb == "alias"]
    assert len(events) == 6


def _swapped(each, goal, expect):
    try:
        each.set_alias("voice", "prod", goal, expect)
    except ConflictError:
        return False
    return True


def test_pushes_of_the_same_and_of_other_versions_at_once_give_dense_numbers(registry, tmp_path):
    from adreg.registry.remotes.transfer import send

    others = [Registry(Settings(tmp_path / f"home{turn}")) for turn in range(6)]
    for turn, other in enumerate(others):
        push(other, make_adapter(tmp_path / str(turn), seed=turn % 3))
    with served(registry.settings.home) as url, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda turn: _send_newest(tmp_path / f"home{turn}", url, send), range(6)))
    assert [version.number for version in registry.adapters.versions("voice")] == [3, 2, 1]


def _send_newest(home, url, send):
    mine = Registry(Settings(home))
    return send(mine, mine.adapters.versions("voice")[0], remote(url))


def test_an_id_leads_to_what_it_is_the_id_of(registry, client, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"), "team/voice")
    file = version.files["adapter_config.json"]
    for id_ in (version.digest, version.digest[7:19]):
        assert [each["name"] for each in client.get(f"/v1/by-hash/{id_}").json()["versions"]] == ["team/voice"]
    found = client.get(f"/v1/by-hash/{file[:25]}").json()["files"]
    assert found == [{"digest": file, "path": "adapter_config.json", "reference": "team/voice:1"}]
    assert client.get(f"/v1/by-hash/{version.digest[7:18]}").status_code == 400
    assert client.get("/v1/by-hash/" + "0" * 12).status_code == 404


def test_a_base_is_found_by_any_of_its_ids_without_saying_where_it_lies(registry, client, tiny_llama, llama_adapter):
    from adreg.registry.push import plan_push

    base = registry.bases.add(str(tiny_llama), "tiny")
    registry.adapters.push(plan_push(llama_adapter), "voice", None, base)
    ids = {name: value for name, value in vars(base.card.ids).items() if value}
    for name, value in ids.items():
        (found,) = client.get(f"/v1/by-hash/{value[:20]}").json()["bases"]
        assert name in found["matches"] and found["name"] == "tiny"
        adapters = client.get(f"/v1/bases/{value}/adapters").json()["adapters"]
        assert [each["name"] for each in adapters] == ["voice"]
    assert str(tiny_llama) not in client.get("/v1/bases").text
    verdict = client.get("/v1/adapters/_/voice/versions/1/audit").json()["verdict"]
    assert verdict == "EXACT"


def test_a_damaged_store_is_an_error_without_paths(registry, client, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"))
    registry.blobs.path(version.files["adapter_config.json"]).unlink()
    answer = client.get("/v1/adapters/_/voice/versions")
    assert _kind(answer) == (500, "integrity") and str(registry.settings.home) not in answer.text


def test_no_error_tells_where_the_server_keeps_its_things():
    for error in (
        ConflictError("/home/me/reg/adreg.db is locked by another process"), StorageError("/home/me/reg", "disk full"),
        FormatError("/home/me/reg/blobs/sha256/ab/abcd", "is no adapter", "F-HDR-1"),
        IntegrityError("blob x is missing from /home/me/reg"),
        NotFoundError("version", "team/voice:3"), OSError("/home/me/reg"),
    ):  # fmt: skip
        text = str(as_api_error(error))
        assert "/home" not in text and "/reg" not in text and ("team/voice:3" in text) == isinstance(error, NotFoundError)


def test_what_was_removed_is_seen_by_nobody(registry, client, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"), alias="prod")
    registry.adapters.remove("voice")
    blob = version.files["adapter_config.json"]
    for path in ("/v1/adapters/_/voice/versions", "/v1/adapters/_/voice/aliases", f"/v1/blobs/{blob}", f"/v1/by-hash/{blob}"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/adapters").json() == {"adapters": []}


def test_the_hub_s_clients_read_the_same_registry(registry, client, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"), "team/voice", "prod")
    file = client.get("/team/voice/resolve/prod/adapter_config.json")
    assert file.content == (tmp_path / "a" / "adapter_config.json").read_bytes()
    assert file.headers["x-repo-commit"] == version.digest[7:47]
    assert client.get("/team/voice/resolve/nope/adapter_config.json").headers["x-error-code"] == "RevisionNotFound"


def test_a_transaction_elsewhere_is_waited_for(registry, client, tmp_path):
    """Another process that writes to the same registry at the same time."""
    push(registry, make_adapter(tmp_path / "a"), alias="prod")
    done = []
    with transaction(registry.db):
        waiting = threading.Thread(target=lambda: done.append(client.put(BLOB, content=BODY).status_code))
        waiting.start()
        time.sleep(0.3)
    waiting.join()
    assert done == [201]


def test_the_history_says_whose_token_made_a_change(registry, tmp_path):
    record, secret = registry.tokens.create("push")
    folder = make_adapter(tmp_path / "a")
    manifest = _manifest_of(tmp_path, folder)
    with served(registry.settings.home) as url:
        there = remote(url, secret)
        for name, file in manifest.files.items():
            there.store_blob(file.digest, file.size, folder / name)
        there.add_version(manifest)
    (event,) = registry.adapters.log("voice")
    assert event.detail["actor"] == f"{record.id}@http" and event.detail["origin"] == f"http {record.id}"
