"""What every remote must keep, as tests: subclass `RemoteContract` and give it the fixture `open_remote`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from adreg.errors import AdregError, ConflictError
from adreg.registry.manifest import FileEntry, Manifest, version_digest
from adreg.registry.remotes.remote import Remote

RACERS = 8
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None, "bias": "none", "lora_dropout": 0.0,
}  # fmt: skip
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Sample:
    """A small real adapter as files on disk by name, and its manifest."""

    files: dict[str, Path]
    manifest: Manifest

    def send(self, remote: Remote) -> int:
        """Store its blobs and make it a version: its number."""
        for name, entry in self.manifest.files.items():
            remote.store_blob(entry.digest, entry.size, self.files[name])
        return remote.add_version(self.manifest)


def make_sample(folder: Path, seed: int, name: str = "team/voice") -> Sample:
    """Write a LoRA of rank 2 with random weights to `folder`, as version 7 of `name` with a note and a tag."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    dice = numpy.random.default_rng(seed)
    matrices = {"lora_A": (2, 8), "lora_B": (8, 2)}
    tensors = {f"{MODULE}.{key}.weight": dice.normal(size=shape).astype("float32") for key, shape in matrices.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    files = {path.name: path for path in sorted(folder.iterdir())}
    entries = {each: FileEntry(digest_of(path), path.stat().st_size) for each, path in files.items()}
    created = "2026-11-21T08:00:00+00:00"
    manifest = Manifest(name, 7, version_digest(entries, None), entries, None, created, notes=f"seed {seed}", tags=("small",))
    return Sample(files, manifest)


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def outcome(action: Callable[[], object]) -> object:
    """What `action` returns, or the adreg error it raises."""
    try:
        return action()
    except AdregError as error:
        return error


class RemoteContract:
    """`open_remote` opens one and the same new remote, as often as it is called."""

    @pytest.fixture
    def open_remote(self) -> Callable[[], Remote]:
        raise NotImplementedError

    @pytest.fixture
    def samples(self, tmp_path: Path) -> Callable[[int], list[Sample]]:
        return lambda count: [make_sample(tmp_path / "samples" / str(seed), seed) for seed in range(count)]

    def test_what_was_sent_comes_back(self, open_remote, samples, tmp_path):
        sample, remote = samples(1)[0], open_remote()
        assert remote.names() == [] and remote.versions("team/voice") == [] and remote.aliases("team/voice") == {}
        assert sample.send(remote) == 1
        fresh = open_remote()
        found = fresh.versions("team/voice")
        assert fresh.names() == ["team/voice"] and [each.number for each in found] == [1]
        for field in ("name", "digest", "files", "trained_on", "notes", "tags", "parents", "yanked"):
            assert getattr(found[0], field) == getattr(sample.manifest, field), field
        for name, entry in sample.manifest.files.items():
            assert fresh.has_blob(entry.digest)
            fresh.fetch_blob(entry.digest, entry.size, tmp_path / name)
            assert (tmp_path / name).read_bytes() == sample.files[name].read_bytes()

    def test_the_same_version_again_keeps_its_number(self, open_remote, samples):
        one, two = samples(2)
        remote = open_remote()
        assert [one.send(remote), two.send(remote), one.send(open_remote()), two.send(remote)] == [1, 2, 1, 2]
        assert [each.digest for each in open_remote().versions("team/voice")] == [one.manifest.digest, two.manifest.digest]

    def test_writers_at_once_get_dense_numbers(self, open_remote, samples):
        sent = samples(RACERS)
        with ThreadPoolExecutor(RACERS) as pool:
            numbers = list(pool.map(lambda sample: sample.send(open_remote()), sent))
        assert sorted(numbers) == list(range(1, RACERS + 1))
        found = {each.digest: each.number for each in open_remote().versions("team/voice")}
        assert found == {sample.manifest.digest: number for sample, number in zip(sent, numbers, strict=True)}

    def test_one_version_sent_by_many_at_once_is_one_version(self, open_remote, samples):
        sample = samples(1)[0]
        with ThreadPoolExecutor(RACERS) as pool:
            assert set(pool.map(lambda _: sample.send(open_remote()), range(RACERS))) == {1}
        assert len(open_remote().versions("team/voice")) == 1

    def test_an_alias_moves_only_from_what_was_expected(self, open_remote, samples):
        remote = open_remote()
        one, two = (sample.manifest.digest for sample in samples(2) if sample.send(remote))
        remote.set_alias("team/voice", "prod", one, None)
        for expect in (None, two):
            with pytest.raises(ConflictError):
                remote.set_alias("team/voice", "prod", two, expect)
        assert open_remote().aliases("team/voice") == {"prod": one}
        remote.set_alias("team/voice", "prod", two, one)
        assert open_remote().aliases("team/voice") == {"prod": two}

    @pytest.mark.parametrize("exists", [False, True])
    def test_of_many_that_move_an_alias_at_once_exactly_one_wins(self, open_remote, samples, exists):
        remote = open_remote()
        first, *others = [sample.manifest.digest for sample in samples(3) if sample.send(remote)]
        expect = first if exists else None
        if expect:
            remote.set_alias("team/voice", "prod", expect, None)
        racers = others * (RACERS // 2)

        def move(digest: str) -> object:
            return outcome(lambda: open_remote().set_alias("team/voice", "prod", digest, expect))

        with ThreadPoolExecutor(RACERS) as pool:
            outcomes = list(zip(racers, pool.map(move, racers), strict=True))
        winners = [digest for digest, result in outcomes if result is None]
        assert len(winners) == 1 and open_remote().aliases("team/voice") == {"prod": winners[0]}
        assert sum(isinstance(result, ConflictError) for _, result in outcomes) == RACERS - 1

    def test_an_alias_means_only_versions_that_are_there(self, open_remote, samples):
        known, unknown = samples(2)
        known.send(open_remote())
        with pytest.raises(AdregError):
            open_remote().set_alias("team/voice", "prod", unknown.manifest.digest, None)
        assert open_remote().aliases("team/voice") == {}

    def test_a_version_without_its_files_is_refused(self, open_remote, samples):
        sample = samples(1)[0]
        config = sample.manifest.files["adapter_config.json"]
        open_remote().store_blob(config.digest, config.size, sample.files["adapter_config.json"])
        with pytest.raises(AdregError):
            open_remote().add_version(sample.manifest)
        assert open_remote().versions("team/voice") == [] and open_remote().names() == []

    def test_a_file_that_is_not_its_digest_is_refused(self, open_remote, samples, tmp_path):
        entry = samples(1)[0].manifest.files["adapter_model.safetensors"]
        path = tmp_path / "other"
        path.write_bytes(b"x" * entry.size)
        with pytest.raises(AdregError):
            open_remote().store_blob(entry.digest, entry.size, path)
        assert not open_remote().has_blob(entry.digest)

    def test_a_broken_transfer_goes_on_where_it_stopped(self, open_remote, samples, tmp_path):
        sample = samples(1)[0]
        sample.send(open_remote())
        entry, target = sample.manifest.files["adapter_model.safetensors"], tmp_path / "half"
        target.write_bytes(b"?" * 100)  # wrong on purpose: what is there is not asked for again
        open_remote().fetch_blob(entry.digest, entry.size, target)
        whole = sample.files["adapter_model.safetensors"].read_bytes()
        assert target.read_bytes() == b"?" * 100 + whole[100:]

    def test_an_empty_file_is_a_file(self, open_remote, tmp_path):
        empty, target = tmp_path / "empty", tmp_path / "target"
        empty.touch()
        open_remote().store_blob(digest_of(empty), 0, empty)
        assert open_remote().has_blob(digest_of(empty))
        open_remote().fetch_blob(digest_of(empty), 0, target)
        assert target.read_bytes() == b""

    def test_a_file_that_is_not_there_is_an_error(self, open_remote, tmp_path):
        digest = "sha256:" + "0" * 64
        assert not open_remote().has_blob(digest)
        with pytest.raises(AdregError):
            open_remote().fetch_blob(digest, 5, tmp_path / "out")

    def test_what_is_no_name_never_becomes_a_path(self, open_remote):
        remote, digest = open_remote(), "sha256:" + "0" * 64
        for name in ("../voice", "team/../voice", "/etc/passwd", "a/b/c", "Voice", "", "v%2e%2e", "v\n"):
            assert isinstance(outcome(partial(remote.versions, name)), AdregError), name
            assert isinstance(outcome(partial(remote.aliases, name)), AdregError), name
            assert isinstance(outcome(partial(remote.set_alias, "team/voice", name, digest, None)), AdregError), name
            assert isinstance(outcome(partial(remote.has_blob, f"sha256:{name}")), AdregError), name
