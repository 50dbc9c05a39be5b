"""Spectra, inner products and distances of low-rank updates, each against the dense float64 matrix."""

import numpy as np
import pytest

from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.adapters.spectra import Factors, Spectrum, cosine, distance, inner, spectra_of

SHAPES = {
    "tall": (300, 40, 5),
    "wide": (24, 500, 8),
    "rank above both": (6, 7, 12),
    "rank above one": (5, 90, 20),
    "one": (9, 9, 1),
}


def factors(shape, seed=0, scaling=0.37):
    rng = np.random.default_rng(seed)
    out, inside, rank = shape
    return Factors(rng.normal(size=(out, rank)), rng.normal(size=(rank, inside)), scaling)


def dense(update):
    return update.scaling * update.left @ update.right


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_singular_values_and_norm_are_the_dense_ones(shape):
    update = factors(shape)
    expected = np.linalg.svd(dense(update), compute_uv=False)
    found = np.array(update.singular_values)
    assert len(found) == min(shape)
    assert np.allclose(found, expected[: len(found)], rtol=1e-12, atol=1e-12 * expected[0])
    assert update.norm == pytest.approx(np.linalg.norm(dense(update)), rel=1e-12)


def test_small_singular_values_survive_beside_large_ones():
    left, right = (np.linalg.qr(np.random.default_rng(seed).normal(size=(80, 6)))[0] for seed in (1, 2))
    expected = 10.0 ** -np.arange(0, 12, 2)
    found = Factors(left * expected, right.T, 1.0).singular_values
    assert np.allclose(found, expected, rtol=1e-5)  # a Gram matrix would lose those under 1e-8


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6, 1e-9])
def test_nearly_dependent_columns_take_the_careful_way(spread):
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(200, 1))
    left, right = shared + spread * rng.normal(size=(200, 6)), rng.normal(size=(6, 90))
    update = Factors(left, right, 1.0)
    expected = np.linalg.svd(dense(update), compute_uv=False)[:6]
    assert np.allclose(update.singular_values, expected, rtol=1e-9, atol=1e-15 * expected[0])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_inner_product_cosine_and_distance_are_the_dense_ones(shape):
    one, two = factors(shape), factors((*shape[:2], shape[2] + 3), seed=1, scaling=2.5)
    product = float((dense(one) * dense(two)).sum())
    norms = float(np.linalg.norm(dense(one)) * np.linalg.norm(dense(two)))
    assert inner(one, two) == pytest.approx(product, abs=1e-12 * norms)
    assert cosine(one, two) == pytest.approx(product / norms, abs=1e-12)
    assert distance(one, two) == pytest.approx(np.linalg.norm(dense(one) - dense(two)), rel=1e-12)


def test_a_distance_far_below_the_norms_is_exact():
    one = factors((50, 60, 4))
    two = Factors(one.left, one.right.copy(), one.scaling)
    two.right[0, 0] += 1e-11
    expected = float(one.scaling * 1e-11 * np.linalg.norm(one.left[:, 0]))
    assert distance(one, two) == pytest.approx(expected, rel=1e-2)
    assert distance(one, Factors(one.left, one.right, one.scaling)) == 0


def test_an_adapter_on_disk_has_the_spectra_of_its_updates(other_adapter):
    adapter = open_adapter(other_adapter)
    for module, spectrum in zip(adapter.modules, spectra_of(adapter.modules), strict=True):
        update = module.scaling * module.b.float32().astype("float64") @ module.a.float32().astype("float64")
        expected = np.linalg.svd(update, compute_uv=False)
        shares = (expected / np.linalg.norm(expected)) ** 2
        assert spectrum.module == module.name and spectrum.shape == update.shape
        assert np.allclose(spectrum.values, expected[: module.rank], rtol=1e-10)
        assert spectrum.norm == pytest.approx(np.linalg.norm(update), rel=1e-12)
        kept = shares[: module.rank]
        assert spectrum.effective_rank == pytest.approx(np.exp(-(kept * np.log(kept)).sum()), rel=1e-9)
        assert spectrum.directions(0.99) == int(np.searchsorted(np.cumsum(shares), 0.99) + 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_has_no_spectrum(value):
    one = factors((30, 20, 4))
    for left, right in ((one.left.copy(), one.right), (one.left, one.right.copy())):
        (left if left is not one.left else right)[1, 2] = value
        broken = Factors(left, right, 1.0)
        assert not broken.singular_values and not np.isfinite(broken.norm) and not np.isfinite(inner(broken, broken))


def test_a_zero_update_has_no_directions():
    zero = Factors(np.zeros((30, 4)), np.ones((4, 20)), 1.0)
    spectrum = Spectrum("m", zero.shape, 4, zero.singular_values)
    assert list(zero.singular_values) == [0, 0, 0, 0]
    assert (spectrum.norm, spectrum.effective_rank, spectrum.directions(0.99)) == (0.0, 0.0, 0)
    found = cosine(zero, factors((30, 20, 4)))
    assert found is None
