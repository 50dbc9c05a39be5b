import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import AuditRefused, BadReference, ConflictError, FormatError, IntegrityError, NotFoundError
from adreg.references import parse_reference
from adreg.registry.push import plan_push


def push(registry, folder, name="voice", alias=None, base=None):
    return registry.adapters.push(plan_push(folder), name, alias, base)


def resolve(registry, text):
    return registry.adapters.resolve(parse_reference(text))


@pytest.fixture
def changed(llama_adapter, tmp_path):
    """The same adapter with one number moved."""
    folder = shutil.copytree(llama_adapter, tmp_path / "changed")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, path)
    return folder


def test_versions_are_dense_immutable_and_found_by_every_kind_of_reference(registry, llama_adapter, changed):
    one, two = push(registry, llama_adapter, alias="prod"), push(registry, changed)
    assert [one.version.number, two.version.number] == [1, 2] and one.new and two.new
    assert resolve(registry, "voice").number == 2
    assert resolve(registry, "voice:1").digest == resolve(registry, "voice:prod").digest == one.version.digest
    assert resolve(registry, f"voice@{two.version.digest[:19]}").number == 2


def test_the_same_content_again_is_already_there(registry, llama_adapter):
    push(registry, llama_adapter)
    again = push(registry, llama_adapter, alias="prod")
    assert not again.new and again.version.reference == "voice:1" and again.version.aliases == ("prod",)


def test_the_database_itself_refuses_to_change_a_version(registry, llama_adapter):
    push(registry, llama_adapter)
    for change in ("update version set digest = 'x'", "update version_file set digest = 'x'"):
        with pytest.raises(Exception, match="a version never changes"):
            registry.db.execute(change)


def test_pull_gives_back_every_byte(registry, llama_adapter, tmp_path):
    push(registry, llama_adapter)
    registry.adapters.pull(resolve(registry, "voice"), tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (llama_adapter / file.name).read_bytes()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_a_damaged_blob_is_noticed_and_nothing_is_written(registry, llama_adapter, tmp_path):
    version = push(registry, llama_adapter).version
    blob = registry.blobs.path(version.files["adapter_model.safetensors"])
    blob.chmod(0o644)
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    with pytest.raises(IntegrityError):
        registry.adapters.pull(version, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_blob_is_an_integrity_error(registry, llama_adapter, tmp_path):
    version = push(registry, llama_adapter).version
    registry.blobs.path(version.files["adapter_config.json"]).unlink()
    with pytest.raises(IntegrityError):
        registry.adapters.open(version)


def test_aliases_move_and_the_history_tells(registry, llama_adapter, changed):
    push(registry, llama_adapter, alias="prod")
    push(registry, changed)
    registry.adapters.set_alias(parse_reference("voice:2"), "prod")
    assert resolve(registry, "voice:prod").number == 2
    registry.adapters.remove_alias("voice", "prod")
    with pytest.raises(NotFoundError) as caught:
        resolve(registry, "voice:prod")
    assert "voice:1" in caught.value.close
    verbs = [event.verb for event in registry.adapters.log("voice")]
    assert verbs == ["alias removed", "alias", "push", "alias", "push"]


def test_a_removed_adapter_is_gone_until_restored_and_its_name_is_not_reused(registry, llama_adapter):
    push(registry, llama_adapter)
    registry.adapters.remove("voice")
    assert registry.adapters.all() == []
    with pytest.raises(NotFoundError):
        resolve(registry, "voice")
    with pytest.raises(ConflictError):
        push(registry, llama_adapter)
    registry.adapters.restore("voice")
    assert resolve(registry, "voice:1").number == 1


def test_near_misses_are_named(registry, llama_adapter):
    push(registry, llama_adapter, name="lighthouse")
    with pytest.raises(NotFoundError) as caught:
        resolve(registry, "lighthose")
    assert caught.value.close == ("lighthouse",)


NO_REFERENCES = [
    "", "Upper", "a/b/c", "../x", "a:0", "a:01", "a@sha256:12", "a@md5:123456789012", "ünï", "a:b:c", "-x", "a b", "a/",
    "x" * 200, "a..b", "a:12345678901", "a\n",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_REFERENCES)
def test_text_that_is_no_reference_is_refused(text):
    with pytest.raises(BadReference):
        parse_reference(text)


def test_a_refused_push_leaves_nothing(registry, llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "nan")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, path)
    with pytest.raises(AuditRefused, match="Q-NAN-1"):
        push(registry, folder)
    assert registry.adapters.all() == []
    assert [file for file in (registry.settings.home / "blobs").rglob("*") if file.is_file()] == []


def test_a_refused_push_keeps_blobs_that_a_version_uses(registry, llama_adapter, tmp_path):
    good = push(registry, llama_adapter).version
    folder = shutil.copytree(llama_adapter, tmp_path / "bad")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    with pytest.raises(AuditRefused):
        push(registry, folder)
    registry.adapters.pull(good, tmp_path / "out")


def test_only_what_belongs_to_an_adapter_is_stored(llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "trainer")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "evil.py", ".secret"):
        (folder / name).write_bytes(b"x")
    (folder / "checkpoint-10").mkdir()
    plan = plan_push(folder)
    assert {"optimizer.pt", "training_args.bin", "evil.py", ".secret", "checkpoint-10"} <= set(plan.skipped)
    assert set(plan.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


def test_symbolic_links_are_not_followed(llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "linked")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    with pytest.raises(FormatError, match="regular file"):
        plan_push(folder)


def test_the_recorded_base_outranks_the_declared_one(registry, llama_adapter, tiny_llama, tmp_path):
    base = registry.bases.add(str(tiny_llama), "tiny")
    folder = shutil.copytree(llama_adapter, tmp_path / "recorded")
    recorded = {
        **vars(base.card.ids),
        "weights_id": "b3:" + "1" * 64,
        "content_id": "b3:" + "2" * 64,
        "values_id": "b3:" + "3" * 64,
    }
    (folder / "adreg.json").write_text(json.dumps({"base": recorded}))
    pushed = push(registry, folder, base=base)
    assert pushed.version.trained_on.weights_id == "b3:" + "1" * 64 and pushed.version.base is None
    assert "B-ID-1" in {finding.rule for finding in pushed.report.findings}


def test_a_forged_record_is_refused(llama_adapter, tmp_path):
    folder = shutil.copytree(llama_adapter, tmp_path / "forged")
    (folder / "adreg.json").write_text(json.dumps({"base": {"weights_id": "x'); drop table version; --"}}))
    with pytest.raises(FormatError):
        plan_push(folder)


RUN = {"id": "20261121-abc", "started": "2026-11-21T05:00:00Z", "outcome": "finished", "data": [], "losses": [], "eval": {}}


@pytest.mark.parametrize(
    "change", [{"id": {}}, {"id": "'; drop"}, {"started": "soon"}, {"eval": [1]}, {"data": ["x"]}, {"losses": 3}]
)
def test_a_record_that_is_no_run_is_refused(registry, llama_adapter, tiny_llama, tmp_path, change):
    folder = shutil.copytree(llama_adapter, tmp_path / "run")
    ids = vars(registry.bases.look(str(tiny_llama)).card.ids)
    (folder / "adreg.json").write_text(json.dumps({**RUN, "base": ids, **change}))
    with pytest.raises(FormatError, match="run record"):
        plan_push(folder)


def test_a_pushed_record_never_replaces_a_known_run(registry, llama_adapter, tiny_llama, tmp_path):
    ids = vars(registry.bases.look(str(tiny_llama)).card.ids)
    registry.runs.add({**RUN, "base": ids, "seed": 42})
    folder = shutil.copytree(llama_adapter, tmp_path / "run")
    (folder / "adreg.json").write_text(json.dumps({**RUN, "base": ids, "seed": 666}))
    assert push(registry, folder).version.run == RUN["id"]
    assert registry.runs.get(RUN["id"])["seed"] == 42
