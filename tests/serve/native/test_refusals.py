import json
from dataclasses import replace

import pytest

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.executor import Segment
from adreg.serve.native.executor import obstacle
from adreg.serve.native.library import library
from tests.builders import build_checkpoint
from tests.serve.native.ragged import open_native

VOCABULARY = 515


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_checkpoint(tmp_path_factory.mktemp("refusals") / "base", "llama", None, vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"residual_multiplier": 0.22}, "residual_multiplier=0.22"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type='yarn'"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"head_dim": 24}, "heads of 24"),
        ({"num_key_value_heads": 3}, "over 3"),
        ({"tie_word_embeddings": True, "num_hidden_layers": 1}, "model.layers.1."),
        ({"vocab_size": "many"}, "vocab_size='many'"),
    ],
)
def test_what_is_not_understood_is_an_obstacle_by_name(base, change, named):
    checkpoint = open_checkpoint(base)
    assert obstacle(checkpoint) is None
    assert named in str(obstacle(replace(checkpoint, config=checkpoint.config | change)))


def test_a_base_without_one_of_its_weights_is_refused(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FormatError, match=r"lacks the model's weight 'model\.layers\.2\."):
        open_native(tmp_path)


def test_without_a_compiler_the_obstacle_says_so(base, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    library.cache_clear()
    try:
        assert "without a C compiler" in str(obstacle(open_checkpoint(base)))
        with pytest.raises(UnsupportedError):
            open_native(base)
    finally:
        library.cache_clear()


def test_nothing_reaches_the_c_code_that_would_leave_its_memory(base):
    executor, other = open_native(base), open_native(base, "bfloat16")
    memory = executor.memory(40)
    sound = Segment(memory, 0, (1, 2, 3), None, 1)
    for broken in (
        replace(sound, tokens=(1, VOCABULARY)),
        replace(sound, tokens=(-1,)),
        replace(sound, tokens=()),
        replace(sound, start=-1),
        replace(sound, start=memory.capacity - 2),
        replace(sound, outputs=4),
        replace(sound, outputs=-1),
        replace(sound, slot=0),
        replace(sound, slot=-1),
        replace(sound, memory=other.memory(40)),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            executor.step([broken])
    with pytest.raises(ValueError, match="share a memory"):
        executor.step([sound, sound])
    with pytest.raises(ValueError, match="without segments"):
        executor.step([])
    with pytest.raises(ValueError, match="a context of"):
        executor.memory(executor.context + 1)
    block = executor.copy_out(memory, 0, 32)
    for start, stop in ((-1, 5), (5, 4), (0, memory.capacity + 1)):
        with pytest.raises(ValueError, match="positions"):
            executor.copy_out(memory, start, stop)
    with pytest.raises(ValueError, match="positions"):
        executor.copy_in(memory, memory.capacity - 31, block)
    assert executor.step([sound]).shape == (1, VOCABULARY)
