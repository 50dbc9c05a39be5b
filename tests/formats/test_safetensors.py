import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from adreg.errors import FormatError
from adreg.formats.safetensors import open_safetensors
from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]},
}


def file_of(path, header, payload=bytes(12)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def changed(tensor="a", **entry):
    return {**GOOD, tensor: {**GOOD[tensor], **entry}}


def renamed(name):
    return {name: GOOD["a"], "b": GOOD["b"]}


BAD = {
    "F-HDR-1 huge header": (struct.pack("<Q", 2**40) + b"{}" * 8, None),
    "F-HDR-2 leading space": (b" " + json.dumps(GOOD).encode(), bytes(12)),
    "F-HDR-2 trailing garbage": (json.dumps(GOOD).encode() + b"\n", bytes(12)),
    "F-HDR-3 duplicate tensor": (b'{"a":%b,"a":%b}' % (ONE, ONE), bytes(4)),
    "F-HDR-3 not json": (b'{"a":}', bytes(4)),
    "F-HDR-3 NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "F-HDR-3 deep nesting": (b'{"a":' * 9000 + b"1" + b"}" * 9000, bytes(4)),
    "F-HDR-4 extra field": (changed(device="cuda"), bytes(12)),
    "F-HDR-4 metadata not strings": ({**GOOD, "__metadata__": {"x": 1}}, bytes(12)),
    "F-EMP-1 no tensors": ({"__metadata__": {"format": "pt"}}, b""),
    "F-DTY-1 unknown type": (changed(dtype="F7"), bytes(12)),
    "F-OFF-1 hole": (changed("b", data_offsets=[9, 13]), bytes(13)),
    "F-OFF-1 overlap": (changed("b", data_offsets=[4, 8]), bytes(12)),
    "F-OFF-1 trailing bytes": (GOOD, bytes(13)),
    "F-OFF-1 truncated": (GOOD, bytes(11)),
    "F-OFF-2 wrong size": (changed(shape=[3]), bytes(12)),
    "F-OFF-2 negative": (changed(shape=[-2]), bytes(12)),
    "F-OFF-2 boolean shape": (changed(shape=[2, True]), bytes(12)),
    "F-OFF-2 float shape": (changed(shape=[2.0]), bytes(12)),
    "F-OFF-2 overflowing shape": (changed(shape=[0, 2**62]), bytes(12)),
    "F-NAM-1 empty name": (renamed(""), bytes(12)),
    "F-NAM-1 path": (renamed("../../etc/passwd"), bytes(12)),
    "F-NAM-1 zero byte": (renamed("a\0"), bytes(12)),
    "F-NAM-1 right-to-left": (renamed("a\u202eb"), bytes(12)),
    "F-NAM-1 not normalised": (renamed("e\u0301"), bytes(12)),
    "F-NAM-1 long": (renamed("x" * 600), bytes(12)),
    "F-HDR-1 empty file": (b"", None),
    "F-HDR-1 only a length": (struct.pack("<Q", 8), None),
    "F-HDR-1 length of all ones": (b"\xff" * 8 + b"{}" * 8, None),
    "F-HDR-2 a list": (b"[]", bytes(4)),
    "F-HDR-3 not UTF-8": (b'{"a\xff":1}', bytes(4)),
    "F-HDR-3 half a character": (b'{"a\\ud800":%b}' % ONE, bytes(4)),
    "F-HDR-3 metadata twice": (b'{"__metadata__":{"a":"1","a":"2"},"a":%b}' % ONE, bytes(4)),
    "F-HDR-4 an entry that is a list": ({**GOOD, "a": [1]}, bytes(12)),
    "F-HDR-4 no offsets": ({**GOOD, "a": {"dtype": "F32", "shape": [2]}}, bytes(12)),
    "F-DTY-1 a list as type": (changed(dtype=["F32"]), bytes(12)),
    "F-OFF-2 begins behind its end": (changed(data_offsets=[8, 0]), bytes(12)),
    "F-OFF-2 three offsets": (changed(data_offsets=[0, 4, 8]), bytes(12)),
    "F-OFF-2 offset as text": (changed(data_offsets=["0", "8"]), bytes(12)),
    "F-OFF-2 offset of 2**64": (changed(data_offsets=[2**64, 2**64 + 8]), bytes(12)),
    "F-OFF-2 nested shape": (changed(shape=[[2]]), bytes(12)),
    "F-OFF-2 nine dimensions": (changed(shape=[1] * 8 + [2]), bytes(12)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_malformed_file_is_refused_by_its_rule(tmp_path, case):
    header, payload = BAD[case]
    path = tmp_path / "x.safetensors"
    if payload is None:
        path.write_bytes(header)
    else:
        file_of(path, header, payload)
    with pytest.raises(FormatError) as caught:
        open_safetensors(path)
    assert caught.value.rule == case.split()[0]


def test_every_truncation_of_a_good_file_is_refused(tmp_path):
    whole = file_of(tmp_path / "good", GOOD).read_bytes()
    open_safetensors(tmp_path / "good")
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            open_safetensors(tmp_path / "cut")


ARRAYS = st.dictionaries(
    st.text("abcdefgh._", min_size=1, max_size=12).filter(lambda name: ".." not in name),
    st.lists(st.integers(0, 5), max_size=3).map(lambda shape: np.random.default_rng(0).normal(size=shape).astype(np.float32)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRAYS)
def test_the_library_and_adreg_read_each_others_files(tmp_path, arrays):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save_file(arrays, theirs)
    views = open_safetensors(theirs)
    assert set(views) == set(arrays)
    with ours.open("wb") as file:
        writer = SafetensorsWriter(file, [TensorSpec(name, "F32", value.shape) for name, value in arrays.items()])
        for value in arrays.values():
            writer.write(value.tobytes())
        writer.finish()
    again = load_file(ours)
    for name, value in arrays.items():
        assert np.array_equal(views[name].float32(), value) and np.array_equal(again[name], value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_never_gives_more_than_the_file_holds(tmp_path, data):
    raw = bytearray(file_of(tmp_path / "good", GOOD, bytes(range(12))).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "bad").write_bytes(raw)
    try:
        views = open_safetensors(tmp_path / "bad")
    except FormatError:
        return
    assert sum(view.nbytes for view in views.values()) == 12


def test_rows_are_slices_of_the_whole(tmp_path):
    value = np.arange(24, dtype=np.float32).reshape(6, 4)
    save_file({"w": value}, tmp_path / "w")
    assert np.array_equal(open_safetensors(tmp_path / "w")["w"].rows(2, 5), value[2:5])


def test_a_writer_that_is_short_of_bytes_says_so(tmp_path):
    with (tmp_path / "x").open("wb") as file, pytest.raises(ValueError, match="8 bytes"):
        SafetensorsWriter(file, [TensorSpec("a", "F32", (2,))]).finish()
