"""Quantised copies of real tensors and of revisions of them: every attribution is right or undecided."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from adreg.audit.attribution import QUANT_OF, UNDECIDED, UNRELATED, attribute, compare, projection
from tests.audit.copies import bitsandbytes, drifted, ggml, gptq, plain, real_weights, sample

COPIES = {
    "f16": partial(plain, dtype="F16"),
    "f32": partial(plain, dtype="F32"),
    **{kind: partial(ggml, kind=kind) for kind in ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1")},
    **{kind: partial(bitsandbytes, kind=kind) for kind in ("nf4", "fp4", "int8")},
}
DRIFTS = (0.001, 0.003, 0.03)


@pytest.fixture(scope="module")
def weights():
    return real_weights()


@pytest.fixture(scope="module")
def original(weights):
    return sample(plain(weights))[0]


@pytest.fixture(scope="module")
def revisions(weights):
    return {drift: sample(plain(drifted(weights, drift)))[0] for drift in DRIFTS}


@pytest.mark.parametrize("kind", COPIES)
def test_the_original_is_found_alone_and_among_revisions_and_a_revision_is_never_taken_for_it(
    kind, weights, original, revisions
):
    copy, quantisation = sample(COPIES[kind](weights))
    found = compare(copy, original)
    assert (found.levels, found.floats) == (0, 0)
    alone = attribute(copy, quantisation, {"original": original})
    assert (alone.verdict, alone.parent, alone.score) == (QUANT_OF, "original", 1.0)
    for drift, revision in revisions.items():
        both = attribute(copy, quantisation, {"revision": revision, "original": original})
        assert (both.verdict, both.parent) == (QUANT_OF, "original"), drift
        lone = attribute(copy, quantisation, {"revision": revision})
        assert lone.verdict in (UNDECIDED, UNRELATED), drift
        place, noise = projection(copy, original, revision)
        assert abs(place) < max(4 * noise, 0.01), drift
        print(f"{kind:5} drift {drift:5.1%}: p = {place:6.3f} ± {noise:.3f}, revision contradicted {lone.details['revision']}")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "nf4", "int8", "f16"])
def test_a_copy_of_a_revision_is_never_attributed_to_the_original(kind, weights, original, revisions):
    copy, quantisation = sample(COPIES[kind](drifted(weights, 0.003)))
    both = attribute(copy, quantisation, {"original": original, "revision": revisions[0.003]})
    assert (both.verdict, both.parent) == (QUANT_OF, "revision")
    assert attribute(copy, quantisation, {"original": original}).verdict != QUANT_OF
    assert attribute(copy, quantisation, {"original": original, "other": revisions[0.001]}).verdict != QUANT_OF


@pytest.mark.parametrize("kind", ["Q4_0", "nf4", "f16"])
def test_two_candidates_that_are_one_or_nearly_one_leave_it_undecided(kind, weights, original):
    copy, quantisation = sample(COPIES[kind](weights))
    assert attribute(copy, quantisation, {"one": original, "two": original}).verdict == UNDECIDED
    if kind != "f16":
        near = sample(plain(drifted(weights, 0.00002)))[0]
        assert attribute(copy, quantisation, {"one": original, "two": near}).verdict == UNDECIDED


@pytest.mark.parametrize("kind", COPIES)
def test_another_model_of_the_same_shapes_is_unrelated(kind, weights):
    dice = np.random.default_rng(9)
    other = {name: values.std() * dice.standard_normal(values.shape).astype(np.float32) for name, values in weights.items()}
    copy, quantisation = sample(COPIES[kind](weights))
    assert attribute(copy, quantisation, {"other": sample(plain(other))[0]}).verdict == UNRELATED


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0"])
def test_codes_found_on_another_grid_than_the_stored_one_prove_nothing_against_the_original(kind, weights, original):
    copy = ggml(weights, kind)
    for name, tensor in copy.items():
        if tensor.quantisation:
            blocks = np.frombuffer(tensor.view.data, np.uint8).reshape(-1, 18 if kind == "Q4_0" else 22).copy()
            blocks[:, :2] = (blocks[:, :2].copy().view("<f2") * np.float16(1.03)).view(np.uint8)
            copy[name] = replace(tensor, view=replace(tensor.view, data=memoryview(blocks.tobytes())))
    sketch, quantisation = sample(copy)
    assert compare(sketch, original).levels > 0.01
    assert attribute(sketch, quantisation, {"original": original}).verdict == UNDECIDED


def test_changed_norms_speak_against_a_candidate_whatever_the_weights_say(weights, original):
    norms = {name: values * np.float32(1.01) if values.ndim == 1 else values for name, values in weights.items()}
    copy, quantisation = sample(bitsandbytes(norms, "nf4"))
    assert attribute(copy, quantisation, {"original": original}).verdict == UNRELATED


def test_a_float32_original_is_precise_enough_for_its_re_typed_copies_but_not_for_levels(weights):
    dice = np.random.default_rng(4)
    fine = {name: values * dice.uniform(0.999, 1.001, values.shape).astype(np.float32) for name, values in weights.items()}
    original = sample(plain(fine, "F32"))[0]
    for dtype in ("BF16", "F16"):
        assert attribute(sample(plain(fine, dtype))[0], None, {"original": original}).verdict == QUANT_OF
        assert attribute(sample(plain(drifted(fine, 0.003), dtype))[0], None, {"original": original}).verdict == UNRELATED
    copy, quantisation = sample(ggml(fine, "Q8_0"))
    assert attribute(copy, quantisation, {"original": original}).verdict == UNDECIDED


def test_gptq_is_known_by_the_first_of_each_row_and_in_activation_order_by_nothing():
    dice = np.random.default_rng(3)
    weights = {f"layers.{i}.weight": dice.standard_normal((128, 64)).astype(np.float32) for i in range(90)}
    weights = {name: values.astype(np.float16).astype(np.float32) for name, values in weights.items()}
    original, moved = (
        sample(plain(weights, "F16"))[0],
        {n: v + np.float32(0.01) * dice.standard_normal(v.shape).astype(np.float32) for n, v in weights.items()},
    )
    revision = sample(plain(moved, "F16"))[0]
    copy, quantisation = sample(gptq(weights))
    found = compare(copy, original)
    assert found.levels == 0 and found.levels_tested == 90 * 128 and 0.05 < found.error < 0.2
    assert attribute(copy, quantisation, {"original": original}).verdict == QUANT_OF
    assert attribute(copy, quantisation, {"original": original, "revision": revision}).parent == "original"
    assert attribute(copy, quantisation, {"revision": revision}).verdict != QUANT_OF
    ordered, quantisation = sample(gptq(weights, desc_act=True))
    assert attribute(ordered, quantisation, {"original": original}).verdict == UNDECIDED


def test_candidates_sampled_elsewhere_are_left_out(weights, original):
    fewer = {name: values for name, values in weights.items() if "layers.1." not in name}
    copy, quantisation = sample(ggml(fewer, "Q8_0"))
    assert attribute(copy, quantisation, {"original": original}).verdict == UNRELATED
