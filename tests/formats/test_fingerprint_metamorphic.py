"""Every change to a checkpoint moves exactly the ids that it should: all ten are compared, both ways."""

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.dtypes import to_float32
from tests.formats.checkpoints import ADDED, CONFIG, TEMPLATE, TOKENIZER, Model, Stored, ids_of, moved, stored, values

EVERY = set(BaseIds.__dataclass_fields__)
RAW = {"weights_id", "layout_id"}
STORAGE = RAW | {"content_id"}
VALUES = {"weights_id", "content_id", "values_id"}
EMBEDDINGS, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
GATE, UP = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"
BPE = TOKENIZER["model"]


def floats(tensor: Stored):
    return to_float32(memoryview(tensor.data), tensor.dtype).reshape(tensor.shape)


def change(model: Model, tensors) -> Model:
    return replace(model, tensors={**model.tensors, **tensors})


def rename(model: Model, new) -> Model:
    return replace(model, tensors={new(name): tensor for name, tensor in model.tensors.items()})


def cast(model: Model, dtype: str) -> Model:
    return change(model, {name: stored(floats(tensor), dtype) for name, tensor in model.tensors.items()})


def flip(model: Model, name: str, byte: int, bit: int = 0) -> Model:
    data = bytearray(model.tensors[name].data)
    data[byte] ^= 1 << bit
    return change(model, {name: replace(model.tensors[name], data=bytes(data))})


def swap(model: Model, one: str, two: str) -> Model:
    return change(model, {one: model.tensors[two], two: model.tensors[one]})


def without(model: Model, *names: str) -> Model:
    return replace(model, tensors={name: tensor for name, tensor in model.tensors.items() if name not in names})


def reshape(model: Model, name: str) -> Model:
    return change(model, {name: replace(model.tensors[name], shape=model.tensors[name].shape[::-1])})


def bpe(**changed) -> dict[str, object]:
    return {**TOKENIZER, "model": {**BPE, **changed}}


def added(**changed) -> dict[str, object]:
    return {**TOKENIZER, "added_tokens": [{**ADDED, **changed}]}


def inner(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1)


def later(name: str) -> str:
    return name.replace("layers.1", "layers.2")


def elsewhere(template) -> Model:
    return replace(PLAIN, template=None, tokenizer_config={**PLAIN.tokenizer_config, "chat_template": template})


ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
BOOKKEEPING = {
    "torch_dtype": "float32",
    "transformers_version": "4",
    "_name_or_path": "x",
    "use_cache": True,
    "bos_token_id": 9,
}
RENAMED = TEMPLATE.replace("m.", "x.").replace("for m", "for x")
SEVERAL = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
PLAIN = Model()
WIDE = change(PLAIN, {name: stored(values(tensor.shape, 7), "F32") for name, tensor in PLAIN.tensors.items()})
HALVES = cast(change(PLAIN, {name: stored(np.round(floats(t) * 64) / 64) for name, t in PLAIN.tensors.items()}), "BF16")
TIED = without(PLAIN, HEAD).with_config(tie_word_embeddings=True)
COPIED = change(PLAIN, {HEAD: PLAIN.tensors[EMBEDDINGS]})
NO_HEAD = without(PLAIN, HEAD)
TWIN, OTHER = "model.twin.weight", "model.language_model.twin.weight"
TWINS = change(PLAIN, {OTHER: stored(values((4, 4), 1)), TWIN: stored(values((4, 4), 2))})

WRAPPERS = ("language_model.", "model.language_model.", "base_model.model.", "_orig_mod.", "module.", "transformer.")

CASES: dict[str, tuple[Model, Model, set[str]]] = {
    "the same": (PLAIN, PLAIN, set()),
    **{f"{count} shards": (PLAIN, replace(PLAIN, shards=count), set()) for count in range(2, 9)},
    "reversed order": (PLAIN, replace(PLAIN, tensors=dict(reversed(PLAIN.tensors.items()))), set()),
    "other metadata": (PLAIN, replace(PLAIN, metadata={"format": "pt", "made": "elsewhere"}), set()),
    **{f"wrapped in {prefix}": (PLAIN, rename(PLAIN, lambda name, prefix=prefix: prefix + name), RAW) for prefix in WRAPPERS},
    "without model.": (PLAIN, rename(PLAIN, lambda name: name.removeprefix("model.")), RAW),
    "model.language_model. but for the head": (PLAIN, rename(PLAIN, inner), RAW),
    "another layer's name": (PLAIN, rename(PLAIN, later), RAW | {"arch_id", "values_id"}),
    "bf16 to f32": (PLAIN, cast(PLAIN, "F32"), STORAGE),
    "bf16 to f16, exactly": (HALVES, cast(HALVES, "F16"), STORAGE),
    "f32 to bf16, rounding": (WIDE, cast(WIDE, "BF16"), STORAGE),
    "f32 to f16, rounding twice": (WIDE, cast(WIDE, "F16"), STORAGE | {"values_id"}),
    "f32 below what bf16 sees": (WIDE, flip(WIDE, NORM, 4), {"weights_id", "content_id"}),
    "a tied head written out": (TIED, change(TIED, {HEAD: TIED.tensors[EMBEDDINGS]}), RAW),
    "a tied head that nobody reads": (TIED, change(TIED, {HEAD: PLAIN.tensors[HEAD]}), RAW),
    "tied by bytes alone": (COPIED, NO_HEAD, RAW),
    "tied by values alone": (change(COPIED, {HEAD: cast(COPIED, "F32").tensors[HEAD]}), NO_HEAD, RAW),
    "a head of its own": (PLAIN, NO_HEAD, EVERY - {"cfg_id", "tok_id", "vocab_id", "tpl_id", "tpl_sem"}),
    "tied in the configuration alone": (NO_HEAD, TIED, {"cfg_id"}),
    **{f"a bit of {name}": (PLAIN, flip(PLAIN, name, 5, bit=7), VALUES) for name in (EMBEDDINGS, UP, NORM, HEAD)},
    "the last bit of the last value": (PLAIN, flip(PLAIN, UP, -2), VALUES),
    "a bit of a buffer": (PLAIN, flip(PLAIN, BUFFER, 2), {"weights_id"}),
    "no buffer": (PLAIN, without(PLAIN, BUFFER), RAW),
    "two tensors swapped": (PLAIN, swap(PLAIN, GATE, UP), {"weights_id", "values_id"}),
    "a shape transposed, the bytes kept": (PLAIN, reshape(PLAIN, UP), STORAGE | {"arch_id", "values_id"}),
    "twins resharded": (TWINS, replace(TWINS, shards=3, tensors=dict(reversed(TWINS.tensors.items()))), set()),
    "twins swapped": (TWINS, swap(TWINS, TWIN, OTHER), {"weights_id", "values_id"}),
    "one layer norm's epsilon": (PLAIN, PLAIN.with_config(rms_norm_eps=2e-5), {"cfg_id"}),
    "heads": (PLAIN, PLAIN.with_config(num_attention_heads=4), {"cfg_id"}),
    "theta": (PLAIN, PLAIN.with_config(rope_theta=500000.0), {"cfg_id"}),
    "a field nobody knows": (PLAIN, PLAIN.with_config(new_thing=3), {"cfg_id"}),
    "rope as transformers 5 writes it": (PLAIN, PLAIN.with_config(rope_theta=None, rope_parameters=ROPE), set()),
    "epsilon through float32": (PLAIN, PLAIN.with_config(rms_norm_eps=9.999999747378752e-06), set()),
    "bookkeeping": (PLAIN, PLAIN.with_config(**BOOKKEEPING), set()),
    "no field at all said with null": (PLAIN, PLAIN.with_config(sliding_window=None), set()),
    "one token": (PLAIN, replace(PLAIN, tokenizer=bpe(vocab={**BPE["vocab"], "ab": 7})), {"tok_id", "vocab_id"}),
    "an added token": (PLAIN, replace(PLAIN, tokenizer=added(content="<S>")), {"tok_id", "vocab_id"}),
    "how an added token matches": (PLAIN, replace(PLAIN, tokenizer=added(lstrip=True)), {"tok_id"}),
    "a merge": (PLAIN, replace(PLAIN, tokenizer=bpe(merges=[["b", "a"]])), {"tok_id"}),
    "merges as transformers 4 writes them": (PLAIN, replace(PLAIN, tokenizer=bpe(merges=["a b"])), set()),
    "the order of the vocabulary": (PLAIN, replace(PLAIN, tokenizer=bpe(vocab=dict(reversed(BPE["vocab"].items())))), set()),
    "the normaliser": (PLAIN, replace(PLAIN, tokenizer={**TOKENIZER, "normalizer": {"type": "NFC"}}), {"tok_id"}),
    "padding": (PLAIN, replace(PLAIN, tokenizer={**TOKENIZER, "padding": {"strategy": "BatchLongest"}}), set()),
    "no tokenizer": (PLAIN, replace(PLAIN, tokenizer=None), {"tok_id", "vocab_id"}),
    "a character of the template": (PLAIN, replace(PLAIN, template=TEMPLATE.replace("[", "<")), {"tpl_id", "tpl_sem"}),
    "a comment in the template": (PLAIN, replace(PLAIN, template="{# new #}" + TEMPLATE), {"tpl_id"}),
    "a variable of the template": (PLAIN, replace(PLAIN, template=RENAMED), {"tpl_id"}),
    "line ends of the template": (PLAIN, replace(PLAIN, template=TEMPLATE.replace("\n", "\r\n") + "\n"), set()),
    "a trailing space, which is rendered": (PLAIN, replace(PLAIN, template=TEMPLATE + " "), {"tpl_sem"}),
    "a template in tokenizer_config.json": (PLAIN, elsewhere(TEMPLATE), set()),
    "a list of templates": (PLAIN, elsewhere(SEVERAL), set()),
    "a special token in the template": (PLAIN, replace(PLAIN, tokenizer_config={"bos_token": "<bos>"}), {"tpl_sem"}),
    "a special token out of it": (PLAIN, replace(PLAIN, tokenizer_config={**PLAIN.tokenizer_config, "eos_token": "."}), set()),
    "no template": (PLAIN, replace(PLAIN, template=None), {"tpl_id", "tpl_sem"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def ids_before(tmp_path_factory):
    """The ids of a case's first model, found once for all the cases that begin with it."""
    known: dict[int, dict[str, str | None]] = {}

    def look(model: Model) -> dict[str, str | None]:
        if id(model) not in known:
            known[id(model)] = ids_of(model.write(tmp_path_factory.mktemp("before")))
        return known[id(model)]

    return look


@pytest.mark.parametrize("case", CASES)
def test_exactly_these_ids_move(case, ids_before, tmp_path):
    before, after, expected = CASES[case]
    assert moved(ids_before(before), ids_of(after.write(tmp_path))) == expected


def test_every_id_is_moved_by_something_and_spared_by_something():
    assert set().union(*(expected for _, _, expected in CASES.values())) == EVERY
    assert not set.intersection(*(expected for _, _, expected in CASES.values()))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_mixture_of_harmless_changes_moves_what_is_in_a_checkpoint(data):
    model = replace(PLAIN, template=None, tokenizer=None)
    names = data.draw(st.permutations(list(model.tensors)))
    prefix = "".join(data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=3)))
    dtypes = {name: data.draw(st.sampled_from(["BF16", "F32"])) for name in names}
    tensors = {prefix + name: stored(floats(model.tensors[name]), dtypes[name]) for name in names}
    after = replace(model, tensors=tensors, shards=data.draw(st.integers(1, 8)), metadata={"x": data.draw(st.text(max_size=5))})
    widened = {name for name in names if dtypes[name] == "F32"}
    expected = (RAW if prefix or widened else set()) | ({"content_id"} if widened - {BUFFER} else set())
    with tempfile.TemporaryDirectory() as place:
        one, two = ids_of(model.write(Path(place, "one"))), ids_of(after.write(Path(place, "two")))
    assert moved(one, two) == expected


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([name for name in PLAIN.tensors if name != BUFFER]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_one_bit_of_any_weight_is_noticed(name, place, bit):
    model = replace(PLAIN, template=None, tokenizer=None)
    byte = math.floor(place * len(model.tensors[name].data))
    with tempfile.TemporaryDirectory() as folder:
        one, two = ids_of(model.write(Path(folder, "1"))), ids_of(flip(model, name, byte, bit).write(Path(folder, "2")))
    assert moved(one, two) == VALUES


def test_ids_that_databases_hold_stay_what_they_were(tmp_path):
    recorded = json.loads(Path(__file__).with_name("golden_ids.json").read_text())
    dtypes = {UP: "F32", "model.layers.0.input_layernorm.weight": "F16", BUFFER: "F32"}
    mixed = {name: stored(floats(WIDE.tensors[name]), dtypes.get(name, "BF16")) for name in WIDE.tensors}
    found = ids_of(replace(PLAIN, tensors=mixed, config=CONFIG).write(tmp_path))
    assert found == recorded
