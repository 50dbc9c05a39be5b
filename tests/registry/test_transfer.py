import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adreg.errors import AuditRefused, ConflictError, IntegrityError, NotFoundError, RemoteError, StorageError
from adreg.references import parse_reference
from adreg.registry.registry import Registry
from adreg.registry.remotes.catalog import Remotes, open_remote, refetcher
from adreg.registry.remotes.partials import Partials
from adreg.registry.remotes.sync import plan_sync, sync
from adreg.registry.remotes.transfer import find_manifest, receive, send
from adreg.settings import Settings
from tests.registry.http_tools import Line, files_under, make_adapter, push, remote, served

LARGE = 200_000  # 6.4 MB of weights: more than what sockets and proxies hold by themselves


@pytest.fixture
def other(tmp_path):
    return Registry(Settings(tmp_path / "other"))


@pytest.fixture
def there(other):
    """A second registry, served."""
    with served(other.settings.home) as url:
        yield remote(url)


@pytest.fixture
def line(there):
    found = Line(there.url)
    yield found
    found.close()


def resolve(registry, text):
    return registry.adapters.resolve(parse_reference(text))


def test_a_version_goes_and_comes_back_the_same(registry, other, there, tmp_path):
    folder = make_adapter(tmp_path / "a")
    version = push(registry, folder, "team/voice", "prod")
    sent = send(registry, version, there, "prod")
    found = resolve(other, "team/voice:prod")
    assert sent.number == 1 and sent.blobs == 2 and found.digest == version.digest and found.files == version.files
    third = Registry(Settings(tmp_path / "third"))
    pushed = receive(third, there, find_manifest(there, parse_reference("team/voice:prod")), "prod")
    assert pushed.new and pushed.version.digest == version.digest and pushed.version.aliases == ("prod",)
    third.adapters.pull(pushed.version, tmp_path / "out")
    assert files_under(tmp_path / "out") == files_under(folder)


def test_the_same_again_sends_no_bytes_and_makes_no_version(registry, other, there, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"))
    assert send(registry, version, there).size > 0
    again = send(registry, version, there)
    assert (again.number, again.blobs, again.size) == (1, 0, 0)
    assert not receive(registry, there, there.versions("voice")[0]).new
    assert len(registry.adapters.versions("voice")) == len(other.adapters.versions("voice")) == 1


def test_numbers_and_aliases_at_the_remote_are_its_own(registry, other, there, tmp_path):
    folders = [make_adapter(tmp_path / str(seed), seed) for seed in range(3)]
    push(other, folders[0])
    one, two = push(registry, folders[1]), push(registry, folders[2])
    assert send(registry, two, there).number == 2 and send(registry, one, there).number == 3
    assert find_manifest(there, parse_reference("voice:2")).digest == two.digest
    assert find_manifest(there, parse_reference(f"voice@{one.digest[:19]}")).number == 3
    with pytest.raises(NotFoundError):
        find_manifest(there, parse_reference("voice:prod"))


@pytest.mark.parametrize("cuts", [[3_000_000], [2_000_000, 1_500_000]])
def test_a_broken_upload_goes_on_where_it_stopped(registry, other, there, line, tmp_path, cuts):
    version = push(registry, make_adapter(tmp_path / "a", width=LARGE))
    line.cut_up = list(cuts)
    send(registry, version, remote(line.url))
    assert line.cut_up == [] and resolve(other, "voice").digest == version.digest
    assert line.up < version.size + 1_200_000 * len(cuts), "the whole blob was sent again"
    assert files_under(other.settings.home / "tmp") == {}


@pytest.mark.parametrize("cuts", [[3_000_000], [2_000_000, 1_500_000]])
def test_a_broken_download_goes_on_where_it_stopped(registry, other, there, line, tmp_path, cuts):
    version = push(other, make_adapter(tmp_path / "a", width=LARGE))
    manifest = there.versions("voice")[0]
    line.cut_down = list(cuts)
    receive(registry, remote(line.url), manifest)
    assert line.cut_down == [] and resolve(registry, "voice").digest == version.digest
    assert line.down < version.size + 300_000 * len(cuts), "the whole blob was fetched again"
    assert files_under(registry.settings.home / "tmp") == {}


def test_a_download_given_up_is_gone_on_with_by_the_next_pull(registry, other, there, line, tmp_path):
    version = push(other, make_adapter(tmp_path / "a", width=LARGE))
    manifest = there.versions("voice")[0]
    line.cut_down = [3_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(RemoteError):
        receive(registry, remote(line.url), manifest)
    assert registry.adapters.names() == []
    line.cut_down.clear()
    before = line.down
    receive(registry, remote(line.url), manifest)
    assert line.down - before < version.size - 2_500_000


def test_what_an_earlier_transfer_left_is_not_trusted(registry, other, there, tmp_path):
    version = push(other, make_adapter(tmp_path / "a"))
    partials = Partials(registry.settings.home / "tmp" / "downloads")
    with partials.claim(version.files["adapter_model.safetensors"].removeprefix("sha256:")) as path:
        path.write_bytes(b"garbage")
    assert receive(registry, there, there.versions("voice")[0]).version.digest == version.digest


def test_a_partial_has_one_owner_and_the_longer_beginning_stays(tmp_path):
    partials = Partials(tmp_path)
    with partials.claim("k") as one, partials.claim("k") as two:
        assert one != two
        one.write_bytes(b"12345")
        two.write_bytes(b"123")
    assert partials.size("k") == 5 and [path.name for path in tmp_path.iterdir()] == ["k"]
    with partials.claim("k") as path:
        path.unlink()
    assert partials.size("k") == 0


def test_what_a_killed_process_had_is_gone_on_with(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from adreg.registry.remotes.partials import Partials\n"
        "with Partials(Path(sys.argv[1])).claim('k') as path: path.write_bytes(b'12345'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    partials = Partials(tmp_path)
    with partials.claim("k") as path, partials.claim("k") as other:
        assert path.read_bytes() == b"12345" and not other.exists()
    assert partials.size("k") == 5


def test_a_folder_is_a_remote_like_any_other(registry, other, tmp_path):
    store = open_remote(f"file://{tmp_path}/store", tmp_path)
    version = push(registry, make_adapter(tmp_path / "a"), "team/voice", "prod")
    assert send(registry, version, store, "prod").number == 1
    sync(other, store, plan_sync(other, store))
    assert resolve(other, "team/voice:prod").digest == version.digest
    after = plan_sync(other, store)
    assert (after.outgoing, after.incoming, after.aliases) == ((), (), ())


def test_a_damaged_blob_is_not_sent(registry, other, there, tmp_path):
    version = push(registry, make_adapter(tmp_path / "a"))
    blob = registry.blobs.path(version.files["adapter_model.safetensors"])
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError):
        send(registry, version, there)
    assert other.adapters.names() == []


def test_a_damaged_blob_here_is_healed_by_a_pull(registry, other, there, tmp_path):
    folder = make_adapter(tmp_path / "a")
    version = push(registry, folder)
    send(registry, version, there)
    blob = registry.blobs.path(version.files["adapter_config.json"])
    blob.unlink()
    receive(registry, there, there.versions("voice")[0])
    assert blob.read_bytes() == (folder / "adapter_config.json").read_bytes()


def test_an_alias_that_moved_meanwhile_is_left(registry, other, there, tmp_path):
    versions = [push(registry, make_adapter(tmp_path / str(seed), seed)) for seed in range(2)]
    send(registry, versions[0], there, "prod")
    with pytest.raises(ConflictError):
        send(registry, versions[1], there, "prod", expect=None)
    assert resolve(other, "voice:prod").digest == versions[0].digest
    send(registry, versions[1], there, "prod", expect=versions[0].digest)
    assert resolve(other, "voice:prod").digest == versions[1].digest


def test_sync_brings_both_sides_together_and_then_has_nothing_to_do(registry, other, there, tmp_path):
    here = [push(registry, make_adapter(tmp_path / f"h{seed}", seed), "voice") for seed in range(2)]
    push(other, make_adapter(tmp_path / "t", 7), "voice")
    push(other, make_adapter(tmp_path / "u", 8), "team/style", "prod")
    plan = plan_sync(registry, there)
    assert [version.number for version in plan.outgoing] == [1, 2]
    assert [f"{each.name}:{each.number}" for each in plan.incoming] == ["team/style:1", "voice:1"]
    sync(registry, there, plan)
    for name in ("voice", "team/style"):
        assert {v.digest for v in registry.adapters.versions(name)} == {v.digest for v in other.adapters.versions(name)}
    assert resolve(other, "voice:2").digest == here[0].digest and resolve(registry, "team/style:prod").number == 1
    after = plan_sync(registry, there)
    assert (after.outgoing, after.incoming, after.aliases) == ((), (), ())


def test_sync_leaves_aliases_that_differ_unless_a_side_is_preferred(registry, other, there, tmp_path):
    one = push(registry, make_adapter(tmp_path / "a", 1), alias="prod")
    two = push(other, make_adapter(tmp_path / "b", 2), alias="prod")
    plan = plan_sync(registry, there)
    sync(registry, there, plan)
    assert [step.alias for step in plan.differing] == ["prod"]
    assert resolve(registry, "voice:prod").digest == one.digest and resolve(other, "voice:prod").digest == two.digest
    sync(registry, there, plan_sync(registry, there, prefer="theirs"))
    assert resolve(registry, "voice:prod").digest == two.digest
    registry.adapters.set_alias(parse_reference(f"voice@{one.digest}"), "prod")
    sync(registry, there, plan_sync(registry, there, prefer="ours"))
    assert resolve(other, "voice:prod").digest == one.digest


def test_a_mirror_follows_the_remote_and_changes_nothing_there(registry, other, there, tmp_path):
    old = push(other, make_adapter(tmp_path / "old", 1), alias="prod")
    push(other, make_adapter(tmp_path / "beta", 2), alias="beta")
    push(registry, make_adapter(tmp_path / "own", 3), alias="mine")
    sync(registry, there, plan_sync(registry, there, mirror=True))
    assert resolve(registry, "voice:prod").digest == old.digest
    new = push(other, make_adapter(tmp_path / "new", 4), alias="prod")
    other.adapters.remove_alias("voice", "beta")
    sync(registry, there, plan_sync(registry, there, mirror=True))
    assert resolve(registry, "voice:prod").digest == new.digest
    assert [alias.name for alias in registry.adapters.aliases("voice")] == ["prod"]
    assert [alias.name for alias in other.adapters.aliases("voice")] == ["prod"] and len(other.adapters.versions("voice")) == 3
    assert plan_sync(registry, there, mirror=True).moving == ()


def test_a_sync_cut_off_goes_on_where_it_stopped(registry, other, there, line, tmp_path):
    for seed in range(3):
        push(registry, make_adapter(tmp_path / str(seed), seed, width=30_000))
    line.cut_up = [1_400_000, 0, 0, 0, 0, 0]
    with pytest.raises(RemoteError):
        sync(registry, remote(line.url), plan_sync(registry, there))
    stored = len(other.adapters.versions("voice"))
    assert stored < 3
    line.cut_up.clear()
    plan = plan_sync(registry, there)
    assert len(plan.outgoing) == 3 - stored
    sync(registry, remote(line.url), plan)
    assert [version.number for version in other.adapters.versions("voice")] == [3, 2, 1]


def test_what_was_removed_here_stays_removed(registry, other, there, tmp_path):
    send(registry, push(registry, make_adapter(tmp_path / "a")), there)
    registry.adapters.remove("voice")
    plan = plan_sync(registry, there)
    assert plan.removed == ("voice",) and plan.incoming == ()


def test_a_full_disk_is_said_before_anything_is_fetched(registry, other, there, tmp_path, monkeypatch):
    push(other, make_adapter(tmp_path / "a"))
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free._replace(free=1000))
    with pytest.raises(StorageError):
        receive(registry, there, there.versions("voice")[0])


def test_a_damaged_blob_is_fetched_again_from_a_remote_that_has_it(registry, other, there, tmp_path, monkeypatch):
    version = push(registry, make_adapter(tmp_path / "a"))
    send(registry, version, there)
    Remotes(registry).add("dead", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    Remotes(registry).add("lab", there.url)
    digest = version.files["adapter_model.safetensors"]
    size = registry.blobs.size(digest)
    assert refetcher(registry)(digest, size, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == registry.blobs.path(digest).read_bytes()
    assert not refetcher(registry)("sha256:" + "0" * 64, 10, tmp_path / "none") and not (tmp_path / "none").exists()


def test_the_receiving_side_refuses_what_a_modified_client_did_not_audit(registry, other, there, tmp_path):
    nan = make_adapter(tmp_path / "nan", value=float("nan"))
    manifest = _unaudited(registry, nan)
    for file in manifest.files.values():
        there.store_blob(file.digest, file.size, registry.blobs.path(file.digest))
    with pytest.raises(RemoteError, match="Q-NAN-1"):
        there.add_version(manifest)
    assert other.adapters.names() == []


def test_the_fetching_side_refuses_what_a_hostile_server_did_not_audit(registry, other, there, tmp_path):
    nan = make_adapter(tmp_path / "nan", value=float("nan"))
    manifest = _unaudited(other, nan)
    other.db.execute("insert into adapter (name, created_at) values ('voice', '2026-01-01T00:00:00Z')")
    other.db.execute(
        "insert into version (adapter_id, number, digest, summary, size, created_at) values (1, 1, ?, '{}', 1, '')",
        [manifest.digest],
    )
    for path, file in manifest.files.items():
        other.db.execute("insert into blob (digest, size, created_at) values (?, ?, '')", [file.digest, file.size])
        other.db.execute("insert into version_file values (1, ?, ?)", [path, file.digest])
    with pytest.raises(AuditRefused, match="Q-NAN-1"):
        receive(registry, there, manifest)
    assert registry.adapters.names() == [] and list((registry.settings.home / "blobs").rglob("?" * 64)) == []


def _unaudited(registry, folder):
    """The manifest of a folder as a client without an audit would make it; its blobs are stored."""
    from adreg.registry.manifest import FileEntry, Manifest, version_digest

    blobs = {path.name: registry.blobs.put(path) for path in sorted(folder.iterdir())}
    files = {name: FileEntry(blob.digest, blob.size) for name, blob in blobs.items()}
    return Manifest("voice", 1, version_digest(files, None), files, None, "2026-01-01T00:00:00Z")


def test_memory_stays_small_whatever_a_blob_weighs(home, tmp_path):
    """150 MB up and down: the growth of the largest resident set, of the client and of the server."""
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(150_000_000)
    with source.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    script = (
        "import sys, resource; from pathlib import Path; from adreg.registry.remotes.http.remote import HttpRemote\n"
        "there = HttpRemote(sys.argv[1]); there.names()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "there.store_blob(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))\n"
        "there.fetch_blob(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4] + '.back'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    serve = [sys.executable, "-m", "adreg", "registry", "serve", "--port", "0"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = re.findall(r"http://\S+", server.stderr.readline())[0]
            remote(url).names()
            before = _largest(server.pid)
            words = [sys.executable, "-c", script, url, digest, str(source.stat().st_size), str(source)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
            grown = _largest(server.pid) - before
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    assert source.read_bytes() == (tmp_path / "large.back").read_bytes()
    assert int(done.stdout) < 20_000 and grown < 40_000, (done.stdout, grown)


def _largest(process):
    """The largest resident set so far, in kB."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0])
