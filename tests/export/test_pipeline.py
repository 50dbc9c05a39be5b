from __future__ import annotations

import numpy as np
import pytest

from adreg.export.blas import _libraries, single_threaded_blas
from adreg.export.fold.folded import Folded, spans
from adreg.export.pipeline import encoded
from adreg.export.tensors import OutputTensor, PlannedTensor
from adreg.formats.safetensors import TensorView


def tensor(name, rows):
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    view = TensorView(name, "F32", values.shape, values.data.cast("B"))
    return PlannedTensor(OutputTensor(name, values.shape, Folded(name, view, "F32")), "F32", values.nbytes)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("adreg.export.tensors.spans", lambda rows, width, group=1: ((i, i + 1) for i in range(rows)))


def test_blocks_come_in_order_however_long_each_takes(small_blocks):
    dice = np.random.default_rng(0)

    def slow(planned, start, stop):
        np.linalg.svd(dice.random((int(dice.integers(1, 60)), 40)))
        return planned.output.block(start, stop).data.cast("B")

    tensors = [tensor("a", 30), tensor("b", 1), tensor("c", 17)]
    found = b"".join(bytes(data) for _, data in encoded(tensors, slow))
    assert found == b"".join(bytes(planned.output.folded.view.data) for planned in tensors)


def test_no_more_blocks_are_made_than_are_soon_needed(small_blocks, monkeypatch):
    monkeypatch.setattr("adreg.export.pipeline.worker_count", lambda: 2)
    made = []

    def note(planned, start, stop):
        made.append(start)
        return memoryview(b"")

    blocks = encoded([tensor("a", 100)], note)
    for given, _ in enumerate(blocks, 1):
        assert len(made) <= given + 2 * 2 + 1


def test_an_error_in_a_block_ends_the_work(small_blocks):
    def fails(planned, start, stop):
        if start == 20:
            raise ValueError("block 20")
        return memoryview(b"")

    with pytest.raises(ValueError, match="block 20"):
        list(encoded([tensor("a", 100)], fails))


def test_numpy_has_its_threads_back_afterwards():
    before = [library.get() for library in _libraries()]
    with single_threaded_blas():
        assert all(library.get() == 1 for library in _libraries())
    assert [library.get() for library in _libraries()] == before


def test_spans_are_whole_groups_and_cover_all_rows():
    for rows, width, group in ((7, 1 << 19, 1), (96, 1 << 16, 24), (5, 1, 5), (3, 1 << 22, 1)):
        found = list(spans(rows, width, group))
        assert [row for start, stop in found for row in range(start, stop)] == list(range(rows))
        assert all(start % group == 0 for start, _ in found)
