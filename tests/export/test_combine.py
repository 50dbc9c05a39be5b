from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adreg.errors import UnsupportedError, UsageError
from adreg.export.changes.source import Source
from adreg.export.combine import factors
from adreg.export.combine.adapter import plan_combine, write_combined
from adreg.export.combine.modules import join_modules
from adreg.export.combine.settings import Combination, Method
from adreg.export.combine.sparse import SparseUpdate
from adreg.export.fold.lora import LoraUpdate
from adreg.formats.adapters.adapter import open_adapter
from tests.builders import build_adapter, build_checkpoint
from tests.export.merging import source

WEIGHTS = (0.7, -0.4)
KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "plain": ({"r": 8, "lora_alpha": 16}, {"r": 8, "lora_alpha": 16}),
    "rslora": ({"r": 8, "lora_alpha": 16, "use_rslora": True}, {"r": 8, "lora_alpha": 4, "use_rslora": True}),
    "mixed": (
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer_folder):
    return build_checkpoint(tmp_path_factory.mktemp("combine") / "base", "llama", tokenizer_folder, vocab_size=49152)


@pytest.fixture(scope="module", params=KINDS)
def sources(request, base, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    folders = [build_adapter(base, place / str(seed), seed, **changes) for seed, changes in enumerate(KINDS[request.param])]
    return [source(folder, weight) for folder, weight in zip(folders, WEIGHTS, strict=True)]


def deltas(folder: Path | Source) -> dict[str, np.ndarray]:
    """Every module's update in float64, the user's weight included."""
    one = folder if isinstance(folder, Source) else source(folder)
    return {m.name: one.weight * m.scaling * m.b.float32().astype(float) @ m.a.float32() for m in one.adapter.modules}


def summed(sources: list[Source]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for one in sources:
        found |= {name: found.get(name, 0) + delta for name, delta in deltas(one).items()}
    return found


@pytest.mark.parametrize("method", [Method.LINEAR, Method.CAT])
def test_the_sum_is_exact_whatever_the_ranks_and_scalings(sources, method, tmp_path):
    made = write_combined(plan_combine(sources, Combination(method), tmp_path / "sum"))
    expected, found = summed(sources), deltas(made.folder)
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        assert np.linalg.norm(found[name] - delta) <= 2e-6 * np.linalg.norm(delta), name


def test_an_adapter_added_to_itself_keeps_its_rank_where_cat_doubles_it(sources, tmp_path):
    twice = [sources[0], sources[0]]
    largest = max(module.rank for module in sources[0].adapter.modules)
    assert max(write_combined(plan_combine(twice, Combination(Method.LINEAR), tmp_path / "a")).ranks) == largest
    assert max(write_combined(plan_combine(twice, Combination(Method.CAT), tmp_path / "b")).ranks) == 2 * largest


def test_svd_is_the_nearest_of_its_rank(sources, tmp_path):
    made = write_combined(plan_combine(sources, Combination(Method.SVD, rank=3), tmp_path / "svd"))
    found = deltas(made.folder)
    shares = []
    for name, delta in summed(sources).items():
        values = np.linalg.svd(delta, compute_uv=False)
        best = np.sqrt((values[3:] ** 2).sum())
        assert np.linalg.norm(found[name] - delta) == pytest.approx(best, rel=1e-4, abs=1e-6 * values[0]), name
        shares.append((values[:3] ** 2).sum() / (values**2).sum())
    assert made.held == pytest.approx(min(shares), rel=1e-4)


def test_subspace_iteration_holds_what_the_best_update_holds(monkeypatch):
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((700, 40)), rng.standard_normal((40, 600))
    dense = (left * np.geomspace(1, 0.01, 40) @ right + 0.05 * rng.standard_normal((700, 600))).astype(np.float32)
    exact = np.linalg.svd(dense.astype(float), compute_uv=False)
    best = (exact[:12] ** 2).sum() / (exact**2).sum()
    found = factors.nearest(dense, 12)
    error = np.linalg.norm(dense - found.left.astype(float) @ found.right) ** 2 / (exact**2).sum()
    assert found.held == pytest.approx(best, rel=1e-3)
    assert 1 - error == pytest.approx(found.held, abs=1e-5)


@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_the_thinning_methods_are_peft_s_on_whole_updates(sources, method):
    import torch
    from peft.utils import merge_utils

    combination = Combination(Method(method), density=0.3)
    for joined in join_modules(sources):
        found = joined._sparse(combination).rows(0, joined.shape[0])
        tensors = [torch.tensor(m.scaling * (m.b.float32() @ m.a.float32())) for _, m in joined.parts]
        weights = torch.tensor([one.weight for one, _ in joined.parts])
        expected = getattr(merge_utils, method)(tensors, weights, 0.3).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_dropping_is_fair_scaled_and_the_same_in_any_blocks(sources):
    joined = join_modules(sources)[0]
    updates = tuple(LoraUpdate(module, module.scaling, "x") for _, module in joined.parts)
    sparse = SparseUpdate(updates, (1.0,) * len(updates), Combination(Method.DARE_TIES, density=0.3, seed=5), joined.shape)
    whole = sparse.rows(0, joined.shape[0])
    pieces = np.concatenate([sparse.rows(start, start + 1) for start in range(joined.shape[0])])
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-7)
    kept = sparse._thinned(0, 0, joined.shape[0]) != 0
    assert kept.mean() == pytest.approx(0.3, abs=4 * (0.21 / kept.size) ** 0.5)
    assert (sparse._drawn(0, 0, 8) != sparse._drawn(len(updates) - 1, 0, 8)).any() or len(updates) == 1


def test_peft_loads_the_result_and_it_acts_as_the_sum_of_its_parents(base, sources, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from adreg.export.proof.reference import adapted_model
    from adreg.formats.bases.checkpoint import open_checkpoint

    parents = [{"digest": f"sha256:{i:064x}", "reference": f"a:{i}", "relation": "merged"} for i in range(2)]
    made = write_combined(plan_combine(sources, Combination(), tmp_path / "sum", {"parents": parents}))
    assert json.loads((made.folder / "adreg.json").read_text())["parents"] == parents
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        found = PeftModel.from_pretrained(plain, made.folder)(input_ids=ids).logits
        expected = adapted_model(open_checkpoint(base), sources)(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_settings_that_mean_nothing_and_adapters_beyond_plain_lora_are_refused(base, sources, tmp_path):
    for wrong in (
        {"method": Method.TIES},
        {"method": Method.CAT, "rank": 4},
        {"density": 0.5},
        {"method": Method.SVD, "rank": 0},
    ):
        with pytest.raises(UsageError):
            Combination(**wrong)
    with pytest.raises(UsageError, match="nothing to combine"):
        plan_combine(sources[:1], Combination(), tmp_path / "out")
    dora = source(build_adapter(base, tmp_path / "dora", 9, use_dora=True, target_modules=["q_proj"]))
    with pytest.raises(UnsupportedError, match="dora"):
        plan_combine([*sources, dora], Combination(), tmp_path / "out")
    assert open_adapter(tmp_path / "dora")
