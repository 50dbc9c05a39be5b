import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from adreg.errors import ConflictError, IntegrityError, NotFoundError, RemoteError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.registry.sources import base_name, resolve_source


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def flip(folder, tensor):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[tensor][0, 0] += 1
    path.unlink()
    save_file(tensors, path, {"format": "pt"})


def test_a_base_is_found_by_name_and_by_digest_and_added_once(registry, copy):
    one = registry.bases.add(str(copy), "tiny")
    assert registry.bases.add(str(copy), "tiny").id == one.id
    assert registry.bases.get("tiny").card == registry.bases.get(one.card.ids.weights_id[3:20]).card == one.card
    assert [base.name for base in registry.bases.all()] == ["tiny"]


def test_a_name_keeps_its_weights(registry, copy):
    registry.bases.add(str(copy), "tiny")
    flip(copy, "model.layers.0.mlp.up_proj.weight")
    with pytest.raises(ConflictError, match="other weights"):
        registry.bases.add(str(copy), "tiny")


def test_verify_names_the_first_tensor_that_differs(registry, copy):
    registry.bases.add(str(copy), "tiny")
    registry.bases.verify("tiny")
    flip(copy, "model.layers.0.mlp.up_proj.weight")
    with pytest.raises(IntegrityError, match=r"layers\.0\.mlp\.up_proj"):
        registry.bases.verify("tiny")


def test_files_that_changed_since_are_not_used(registry, copy):
    record = registry.bases.add(str(copy), "tiny")
    assert set(registry.bases.current(record)) == set(open_checkpoint(copy))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(IntegrityError, match="cfg_id"):
        registry.bases.current(record)


def test_looking_at_a_folder_does_not_register_it(registry, copy):
    assert registry.bases.look(str(copy)).card.parameters > 0
    assert registry.bases.all() == []


def test_names_and_sources_that_do_not_exist_are_not_found(registry, home):
    for text in ("nobody", "pypi:no-such-package"):
        with pytest.raises(NotFoundError):
            registry.bases.ensure(text)
    with pytest.raises(NotFoundError):
        resolve_source("./nowhere", home)


def test_a_hub_that_cannot_be_reached_is_a_remote_error(registry):
    with pytest.raises(RemoteError, match="cannot be reached"):
        registry.bases.add("org/nowhere-to-be-found")


def test_a_snapshot_in_the_hubs_cache_goes_by_its_repository(registry, copy, tmp_path):
    snapshot = tmp_path / "models--org--Tiny-Llama" / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    for file in copy.iterdir():
        (snapshot / file.name).symlink_to(file)
    base = registry.bases.add(str(snapshot))
    assert (base.name, base.origin) == ("tiny-llama", f"org/Tiny-Llama@{'ab' * 20}")


def test_folder_names_become_names():
    assert base_name("SmolLM2 135M_Instruct") == "smollm2-135m-instruct"
