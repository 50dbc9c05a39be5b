from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from adreg.errors import UnsupportedError, VerificationFailed
from adreg.export.changes.source import Source
from adreg.export.gguf.stamp import COUNTS, MEASURES, PREFIX, stamp
from adreg.export.gguf.writer import write_gguf
from adreg.export.plan import plan_merge
from adreg.export.proof import limits, verify
from adreg.export.proof.limits import Limits
from adreg.export.proof.llamacpp import llamacpp
from adreg.export.proof.reference import adapted_model, merged_model, open_reference
from adreg.export.proof.verify import Subject, obstacle, verify_checkpoint, verify_merge
from adreg.export.run import run_merge
from adreg.export.targets import assign
from adreg.formats.adapters.others import open_any_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.gguf.header import read_gguf
from adreg.progress import SILENT
from tests.builders import build_checkpoint
from tests.export.merging import merge, request, source
from tests.export.test_gguf_against_converter import LONGROPE

NOTHING = Limits(0.0, 0.0, 0.0)


def test_a_proven_file_holds_the_numbers_of_its_proof_and_they_change_nothing_else(tiny_llama, llama_adapter, tmp_path):
    result = merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf", quant="q8_0", verify=True)
    assert result.verification is not None
    proof, fields = result.verification.as_json(), read_gguf(result.path).fields
    assert {name: fields[PREFIX + name] for name in COUNTS} == {name: proof[name] for name in COUNTS}
    for name in MEASURES:
        assert fields[PREFIX + name] == pytest.approx(proof[name], rel=1e-6) and proof[name] > 0

    plan = plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "plain.gguf", quant="q8_0", verify=True, name="x"))
    write_gguf(plan, plan.path, SILENT)
    plain = plan.path.read_bytes()
    stamp(plan.path, proof)
    stamped = plan.path.read_bytes()
    assert len(stamped) == len(plain)
    assert 0 < sum(one != other for one, other in zip(plain, stamped, strict=True)) <= 4 * len(MEASURES + COUNTS)
    with llamacpp(plan.path, context=64) as model:
        assert model.tokenize("Hello", add_special=False, parse_special=False) == [19556]


@pytest.mark.parametrize(("target", "place"), [("gguf", "out.gguf"), ("gguf", "folder"), ("safetensors", "folder")])
def test_what_fails_is_set_aside_and_never_under_its_final_name(
    tiny_llama, llama_adapter, tmp_path, monkeypatch, target, place
):
    monkeypatch.setitem(limits.LIMITS, "MOSTLY_F16", NOTHING)
    monkeypatch.setitem(limits.CHECKPOINT_LIMITS, "BF16", NOTHING)
    wanted = request(tiny_llama, llama_adapter, output=tmp_path / place, target=target, verify=True)
    first, second = (tmp_path / f"{place}.rejected{ending}" for ending in ("", "-1"))
    for aside in (first, second):
        with pytest.raises(VerificationFailed, match=rf"{aside} is set aside: .* 0\.0 is allowed"):
            run_merge(plan_merge(wanted))
        assert aside.exists()
    assert sorted(tmp_path.iterdir()) == [first, second]
    assert contents(first) == contents(second)


def test_what_cannot_be_judged_is_set_aside_too(tiny_llama, llama_adapter, tmp_path, monkeypatch):
    monkeypatch.delitem(limits.LIMITS, "MOSTLY_F16")
    with pytest.raises(VerificationFailed, match="for which adreg has no limits"):
        merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf.rejected"]


def contents(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(file.relative_to(path), file.read_bytes()) for file in files]


def test_a_checkpoint_is_compared_with_the_adapter_it_should_hold(tiny_llama, llama_adapter, other_adapter, tmp_path):
    merge(tiny_llama, llama_adapter, output=tmp_path / "out", target="safetensors")
    right, wrong = (Subject(open_checkpoint(tiny_llama), (source(folder),)) for folder in (llama_adapter, other_adapter))
    found = verify_checkpoint(tmp_path / "out", right)
    assert found.passed and found.file_type == "BF16" and found.adapter_effect == pytest.approx(1, abs=0.05)
    assert not verify_checkpoint(tmp_path / "out", wrong).passed


def test_an_adapter_of_two_bytes_is_written_and_judged_as_such(tiny_llama, llama_adapter, tmp_path):
    result = merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf", target="gguf-lora", quant="bf16", verify=True)
    assert {view.dtype for view in read_gguf(result.path).tensors.values()} == {"BF16"}
    assert result.verification is not None and result.verification.file_type == "MOSTLY_BF16"


@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
def test_an_adapter_that_is_weaker_than_the_rounding_is_found_beside_the_base_in_the_same_type(
    tiny_llama, llama_adapter, tmp_path, quant
):
    weak = replace(source(llama_adapter), weight=0.2)
    plan = plan_merge(request(tiny_llama, weak, output=tmp_path / "unused.gguf", quant=quant))
    with_it, without = (
        merge(tiny_llama, *sources, output=tmp_path / f"{len(sources)}.gguf", quant=quant) for sources in ((weak,), ())
    )
    assert verify_merge(plan, with_it.path).adapter_effect == pytest.approx(1, abs=0.3)
    found = verify_merge(plan, without.path)
    assert found.adapter_effect == 0 and "0% of the adapter's effect is in the file" in found.failures


def test_half_a_vera_is_half_a_vera_in_the_reference_too(fold_bases, fold_adapters):
    import torch

    base = open_checkpoint(fold_bases["llama"])
    half = Source(open_any_adapter(fold_adapters("vera")), 0.5)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        expected = adapted_model(base, [half])(input_ids=ids).logits
        found = merged_model(base, assign(base, (half,)))(input_ids=ids).logits
        whole = adapted_model(base, [replace(half, weight=1.0)])(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-5 < 5e-3 < (whole - expected).abs().max()


def test_code_that_comes_with_a_model_is_never_run_and_named(tiny_llama, tmp_path):
    tokenizer, model = (shutil.copytree(tiny_llama, tmp_path / name) for name in ("tokenizer", "model"))
    own_class = {"tokenizer_class": "IndexTokenizer", "auto_map": {"AutoTokenizer": ["tokens.IndexTokenizer", None]}}
    change(tokenizer / "tokenizer_config.json", **own_class)
    change(tokenizer / "config.json", model_type="index", architectures=["IndexForCausalLM"])
    change(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    for folder in (tokenizer, model):
        (folder / "tokens.py").write_text("raise SystemExit")
        (folder / "own.py").write_text("raise SystemExit")
        base = open_checkpoint(folder)
        assert "transformers does not load it" in str(obstacle(base, "gguf"))
        with pytest.raises(UnsupportedError, match="contains custom code") as refused:
            open_reference(base, ())
        assert "--no-verify" in refused.value.instead


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_stands_against_a_verification_is_said_beforehand(tiny_llama, tokenizer_folder, tmp_path, monkeypatch):
    assert obstacle(open_checkpoint(tiny_llama), "gguf") is None
    changes: dict[str, Any] = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}
    phi3 = open_checkpoint(build_checkpoint(tmp_path / "phi3", "phi3", tokenizer_folder, **changes))
    assert "factors of longrope" in str(obstacle(phi3, "gguf"))
    assert obstacle(phi3, "safetensors") is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1024 kB\n")
    monkeypatch.setattr(verify, "MEMORY", tmp_path / "meminfo")
    assert obstacle(open_checkpoint(tiny_llama), "gguf") == "it needs 12 MiB of memory, and 1 are free"
