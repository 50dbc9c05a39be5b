"""How a base is read: once, in little memory, through links, and quantised weights by what they mean."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from adreg.errors import FormatError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.bases.fingerprint import BaseIds, fingerprint
from adreg.formats.bases.leaves import Leaf, dump_leaves, leaf_hasher, leaf_of, load_leaves
from adreg.formats.dtypes import from_float32, to_float32
from adreg.formats.safetensors import TensorView
from tests.formats.checkpoints import Model, Stored, ids_of, moved, stored, values

PLAIN = Model()
QUIET = replace(PLAIN, template=None, tokenizer=None)
UP, HEAD, EMBEDDINGS = "model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"


class Memory:
    def __init__(self):
        self.rows = {}

    def get(self, key, algorithm):
        return self.rows.get((key, algorithm))

    def put(self, key, algorithm, found):
        self.rows[key, algorithm] = found


def age(folder):
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    time.sleep(2.05)


def test_the_cache_spares_reading_until_a_file_changes_and_never_holds_a_young_file(tmp_path):
    folder, cache = PLAIN.write(tmp_path), Memory()
    before = ids_of(folder, cache)
    assert not cache.rows, "a file younger than the clock's grain must not be cached"
    age(folder)
    assert ids_of(folder, cache) == before and len(cache.rows) == 3
    (leaves,) = (key for key in cache.rows if key[1] == "b3.leaf.v1")
    cache.rows[leaves] = dump_leaves(
        {name: Leaf(f"{n:064}", f"{n:064}") for n, name in enumerate(load_leaves(cache.rows[leaves]))}
    )
    for key in set(cache.rows) - {leaves}:
        cache.rows[key] = "b3:remembered" if key[1].startswith("b3.tplsem") else '["b3:remembered", "b3:remembered"]'
    used = {"weights_id", "content_id", "values_id", "tok_id", "vocab_id", "tpl_sem"}
    assert moved(before, ids_of(folder, cache)) == used, "the cache was not used"
    PLAIN.write(tmp_path)
    assert ids_of(folder, cache) == before, "changed files must be read again"


def test_what_is_remembered_of_a_template_hangs_on_the_special_tokens_too(tmp_path):
    folder, cache = PLAIN.write(tmp_path), Memory()
    age(folder)
    before = ids_of(folder, cache)
    replace(PLAIN, tokenizer_config={"bos_token": "<bos>"}).write(tmp_path / "other")
    (tmp_path / "other" / "tokenizer_config.json").replace(folder / "tokenizer_config.json")
    assert moved(before, ids_of(folder, cache)) == {"tpl_sem"}


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    base = open_checkpoint(QUIET.write(tmp_path))
    os.utime(tmp_path / "model.safetensors", (1, 1))
    with pytest.raises(FormatError, match="changed while") as caught:
        fingerprint(base)
    assert caught.value.rule == "F-MUT-1"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_snapshot_of_the_hub_cache_is_the_folder_that_it_links_to(tmp_path, shards):
    model = replace(PLAIN, shards=shards)
    plain = model.write(tmp_path / "plain")
    repository = tmp_path / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / ("ab" * 20), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(plain.iterdir())):
        (blobs / f"{number:064x}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    assert ids_of(snapshot) == ids_of(plain)


def test_old_records_without_the_later_ids_are_still_records(tmp_path):
    now, _ = fingerprint(open_checkpoint(PLAIN.write(tmp_path)))
    later = ("layout_id", "vocab_id", "tpl_sem")
    old = BaseIds(**{name: value for name, value in vars(now).items() if name not in later})
    assert [getattr(old, name) for name in later] == [None] * 3
    assert old.differing(now) == [] and now.differing(old) == list(later)
    assert replace(old, tok_id=None).differing(now) == ["tok_id"]


def test_a_leaf_is_the_same_in_one_window_and_in_many(tmp_path, monkeypatch):
    numbers = values((301, 7), 3)
    tensors = {"f": stored(numbers, "F32"), "h": stored(numbers, "F16"), "b": stored(numbers, "BF16")}
    base = open_checkpoint(replace(QUIET, tensors=tensors).write(tmp_path))
    whole = {name: leaf_of(view) for name, view in base.items()}
    monkeypatch.setattr("adreg.formats.bases.leaves.WINDOW_BYTES", 64)
    monkeypatch.setattr("adreg.formats.bases.leaves.CHUNK_ELEMENTS", 5)
    assert {name: leaf_of(view) for name, view in base.items()} == whole
    assert whole["f"].values == whole["b"].stored != whole["f"].stored


def test_tensors_without_elements_or_axes_have_leaves_wherever_they_lie(tmp_path):
    odd = {"empty": Stored("F32", (0, 4), b""), "scalar": stored(np.full((), 2.5, np.float32), "F16")}
    first = replace(QUIET, tensors={**odd, **QUIET.tensors})
    last = replace(QUIET, tensors={**QUIET.tensors, **odd})
    assert ids_of(first.write(tmp_path / "first")) == ids_of(last.write(tmp_path / "last"))


@pytest.mark.parametrize("odd", [{"rope_scaling": [1]}, {"rope_theta": "x"}, {"head_dim": "x"}, {"hidden_size": "x"}, {"a": 0}])
def test_a_configuration_that_means_nothing_is_refused_by_name(tmp_path, odd):
    folder = QUIET.with_config(**odd).write(tmp_path)
    if "a" in odd:
        path = folder / "config.json"
        path.write_text(path.read_text().replace('"a": 0', '"a": ' + "[" * 700 + "]" * 700))
    with pytest.raises(FormatError, match=r"config\.json") as caught:
        ids_of(folder)
    assert caught.value.rule == "B-CFG-0"


def test_the_values_of_a_float16_are_those_of_its_bfloat16_for_every_pattern(tmp_path):
    patterns = np.arange(1 << 16, dtype="<u2").tobytes()
    rounded = bytes(from_float32(to_float32(memoryview(patterns), "F16"), "BF16"))
    tensors = {"half": Stored("F16", (1 << 16,), patterns), "bf16": Stored("BF16", (1 << 16,), rounded)}
    base = open_checkpoint(replace(QUIET, tensors=tensors).write(tmp_path))
    assert leaf_of(base["half"]).values == leaf_of(base["bf16"]).stored


MEASURE = """
import sys
from pathlib import Path
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.leaves import leaf_of
for view in open_checkpoint(Path(sys.argv[1])).values():
    leaf_of(view)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
@pytest.mark.parametrize(("dtype", "limit"), [("BF16", 70), ("F32", 140)])
def test_a_large_checkpoint_passes_through_little_memory(tmp_path, dtype, limit):
    size = {"BF16": 2, "F32": 4}[dtype]
    folder = replace(QUIET, tensors={"model.norm.weight": Stored(dtype, (0,), b"")}).write(tmp_path)
    header = b'{"w":{"dtype":"%s","shape":[%d],"data_offsets":[0,%d]}}' % (dtype.encode(), (1 << 28) // size, 1 << 28)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 28))
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit * 1024, "kilobytes for a file of 256 MiB"


@dataclass(frozen=True)
class Halves:
    """A weight stored as two side tensors: whole numbers, and the factor of each row."""

    numbers: TensorView
    factors: TensorView
    shape: tuple[int, ...]
    parts: tuple[str, ...]

    def rows(self, start, stop):
        numbers = np.frombuffer(self.numbers.data, "<i1").reshape(self.shape)[start:stop]
        return (numbers * self.factors.float32()[start:stop, None]).astype(np.float32)


@dataclass(frozen=True)
class Quantised(Checkpoint):
    @cached_property
    def packed(self):
        stems = [name.removesuffix(".q") for name in self if name.endswith(".q")]
        return {f"{stem}.weight": self._halves(f"{stem}.q", f"{stem}.s") for stem in stems}

    def _halves(self, numbers, factors):
        return Halves(self[numbers], self[factors], self[numbers].shape, (numbers, factors))


def quantise(name, seed):
    """(the float weight, its two parts): what is stored stands for it exactly."""
    numbers = np.random.default_rng(seed).integers(-127, 127, (12, 8)).astype(np.int8)
    factors = np.full(12, 1 / 128, np.float32)
    stem = name.removesuffix(".weight")
    parts = {f"{stem}.q": Stored("I8", (12, 8), numbers.tobytes()), f"{stem}.s": stored(factors, "F32")}
    return stored((numbers * factors[:, None]).astype(np.float32)), parts


def quantised_ids(folder, cache=None):
    base = open_checkpoint(folder)
    return vars(fingerprint(Quantised(base.folder, base.config, base.shards), cache)[0])


def test_quantised_weights_count_by_what_they_stand_for(tmp_path, monkeypatch):
    monkeypatch.setattr("adreg.formats.bases.leaves.CHUNK_ELEMENTS", 24)  # three rows at a time
    weight, parts = quantise(UP, 1)
    original = replace(QUIET, tensors={**QUIET.tensors, UP: weight})
    packed = replace(QUIET, tensors={name: tensor for name, tensor in QUIET.tensors.items() if name != UP} | parts)
    one, two = ids_of(original.write(tmp_path / "one")), quantised_ids(packed.write(tmp_path / "two"))
    assert moved(one, two) == {"weights_id", "layout_id", "content_id"}
    flipped = {name: replace(tensor, data=b"\x01" + tensor.data[1:]) for name, tensor in parts.items() if name.endswith(".q")}
    changed = replace(packed, tensors={**packed.tensors, **flipped})
    assert moved(two, quantised_ids(changed.write(tmp_path / "three"))) == {"weights_id", "content_id", "values_id"}


def test_a_quantised_copy_of_the_embeddings_is_a_tied_head(tmp_path):
    weight, parts = quantise(HEAD, 2)
    plain = replace(QUIET, tensors={name: tensor for name, tensor in QUIET.tensors.items() if name != HEAD})
    plain = replace(plain, tensors={**plain.tensors, EMBEDDINGS: weight})
    one = ids_of(plain.write(tmp_path / "one"))
    two = quantised_ids(replace(plain, tensors={**plain.tensors, **parts}).write(tmp_path / "two"))
    assert moved(one, two) == {"weights_id", "layout_id"}


def test_dequantised_values_are_remembered_for_these_bytes_and_this_configuration(tmp_path, monkeypatch):
    _, parts = quantise(UP, 1)
    packed = replace(QUIET, tensors={name: tensor for name, tensor in QUIET.tensors.items() if name != UP} | parts)
    folder, cache = packed.write(tmp_path), Memory()
    age(folder)
    before = quantised_ids(folder, cache)
    monkeypatch.setattr(Halves, "rows", lambda self, start, stop: np.zeros((stop - start, 8), np.float32))
    assert quantised_ids(folder, cache) == before
    packed.with_config(quantization_config={"bits": 4}).write(tmp_path / "new")
    (tmp_path / "new" / "config.json").replace(folder / "config.json")
    assert moved(before, quantised_ids(folder, cache)) == {"values_id"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_process_hashes_without_the_threads_that_stayed_behind():
    content = bytes(4 << 20)
    expected = leaf_hasher("F32", (1 << 20,)).update(content).hexdigest()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os._exit(leaf_hasher("F32", (1 << 20,)).update(content).hexdigest() != expected)
    assert os.waitpid(child, 0)[1] == 0
