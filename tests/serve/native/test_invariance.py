import os
import signal

import numpy as np
import pytest

from adreg.formats.adapters.adapter import open_adapter
from adreg.serve.executor import Segment
from tests.builders import build_adapter, build_checkpoint
from tests.serve.native.ragged import Line, lines, open_native, reference, run_ragged, run_whole

VOCABULARY = 515
LENGTHS = (130, 33, 9, 41, 1, 77, 64, 3, 15, 100, 12, 28, 50, 5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 96, "head_dim": 32, "intermediate_size": 200}
    base = build_checkpoint(folder / "base", "llama", None, **sizes)
    adapters = [
        build_adapter(base, folder / "one", seed=1),
        build_adapter(base, folder / "two", seed=2, r=5, target_modules=["q_proj", "down_proj"]),
        build_adapter(base, folder / "three", seed=3, r=20, use_dora=True),
    ]
    return base, adapters


def identical(one, other):
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_bit_depends_on_company_chunks_or_threads(world, dtype):
    base, adapters = world
    given = lines(1, LENGTHS, VOCABULARY, [None, 0, 1, 2])
    alone = [run_whole(open_native(base, dtype, 1, adapters), line) for line in given]
    for threads in (1, 2, 3):
        executor = open_native(base, dtype, threads, adapters)
        for seed, largest in ((1, 2), (2, 13), (3, 40)):
            for logits, expected in zip(run_ragged(executor, given, seed, largest), alone, strict=True):
                assert identical(logits, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_window_that_slides_changes_no_bit_either(dtype, tmp_path):
    base = build_checkpoint(tmp_path / "base", "mistral", None, vocab_size=VOCABULARY, sliding_window=37)
    executor = open_native(base, dtype)
    given = lines(4, (150, 90, 40), VOCABULARY, [None])
    for logits, line in zip(run_ragged(executor, given, 5), given, strict=True):
        assert identical(logits, run_whole(executor, line))


def test_nan_in_one_adapter_reaches_nobody_else(world):
    base, adapters = world
    executor = open_native(base, "bfloat16", 2, adapters)
    given = lines(6, (60, 20, 35, 11), VOCABULARY, [None, 0, 1, 2])
    clean = [run_whole(executor, line) for line in given]
    for array in executor.prepared(1).arrays:
        array.fill(np.uint32(0x7FC07FC0) if array.dtype == np.uint32 else np.nan)
    for seed in range(3):
        found = run_ragged(executor, given, seed)
        assert all(identical(found[index], clean[index]) for index in (0, 1, 3))
        assert np.isnan(found[2]).all()
    after = lines(6, (60, 20, 35, 11), VOCABULARY, [None])
    assert all(np.isfinite(logits).all() for logits in run_ragged(executor, after, 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_copied_keys_and_values_continue_as_if_they_were_its_own(world, dtype):
    base, adapters = world
    executor = open_native(base, dtype, 2, adapters)
    line = lines(7, (90,), VOCABULARY, [0])[0]
    whole = run_whole(executor, line)
    first, second = executor.memory(90), executor.memory(200)
    executor.step([Segment(first, 0, line.tokens[:71], 0, 0)])
    for start, stop in ((0, 16), (16, 48), (48, 71)):
        block = executor.copy_out(first, start, stop)
        assert block.nbytes == (stop - start) * executor.bytes_per_token
        executor.copy_in(second, start, block)
    assert identical(executor.step([Segment(second, 71, line.tokens[71:], 0, 19)]), whole[71:])


def test_bfloat16_is_nearer_to_the_truth_than_transformers_own(world):
    base, adapters = world
    executor = open_native(base, "bfloat16", 2, adapters[:2])
    for slot, adapter in ((None, None), (0, adapters[0]), (1, adapters[1])):
        tokens = lines(8, (120,), VOCABULARY, [None])[0].tokens
        truth, theirs = reference(base, adapter, tokens), reference(base, adapter, tokens, "bfloat16")
        ours = run_whole(executor, Line(tokens, slot))
        assert np.square(ours - truth).mean() <= np.square(theirs - truth).mean()


def test_an_adapter_costs_little_more_than_its_bytes(world):
    base, adapters = world
    executor = open_native(base, "bfloat16", 1, adapters)
    for slot, path in enumerate(adapters):
        arrays = executor.prepared(slot).arrays
        assert sum(array.nbytes for array in arrays) <= 1.3 * 2 * open_adapter(path).parameters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_process_computes_and_lets_go_without_the_threads_that_it_lacks(world):
    base, _ = world
    executor = open_native(base, threads=3)
    line = lines(9, (20,), VOCABULARY, [None])[0]
    expected = run_whole(executor, line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        same = identical(run_whole(executor, line), expected)
        del executor
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert identical(run_whole(executor, line), expected)
