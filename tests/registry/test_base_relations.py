"""A quantised or re-typed copy of a registered base: found whichever comes first, shown, and treated as what it is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from adreg.audit.findings import Severity, Verdict
from adreg.audit.policy import require
from adreg.errors import AuditRefused, IntegrityError, UnsupportedError
from adreg.formats.quantised.packed import Quantisation
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from tests.builders import build_checkpoint
from tests.formats.ggufs import write_llama_gguf
from tests.formats.quantisers import nf4_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A llama with the modules of tiny-llama, few tokens and no tokenizer."""
    return build_checkpoint(tmp_path_factory.mktemp("original") / "original", "llama", None, vocab_size=320)


@pytest.fixture(scope="module")
def gguf(original, tmp_path_factory):
    """It as a Q8_0 file."""
    return write_llama_gguf(original, tmp_path_factory.mktemp("gguf") / "tiny-q8.gguf", "Q8_0")


@pytest.fixture(scope="module")
def four_bits(original, tmp_path_factory):
    """It as bitsandbytes nf4, in the files that transformers would write."""
    return nf4_checkpoint(original, tmp_path_factory.mktemp("bnb") / "tiny-nf4")


@pytest.fixture(scope="module")
def revision(original, tmp_path_factory):
    """It a little further trained: every matrix but the embeddings moved by 1 %."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("revision") / "revision")
    return rewrite(folder, lambda name, value: value if value.ndim == 1 or "embed" in name else moved(value))


def moved(value):
    generator = torch.Generator().manual_seed(4)
    return (value.float() + 0.01 * value.float().std() * torch.randn(value.shape, generator=generator)).bfloat16()


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({name: change(name, value) for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def relatives(registry, name):
    return {(one.name, one.verdict, one.original) for one in registry.bases.get(name).card.relatives}


@pytest.mark.parametrize("order", [["original", "revision", "q8", "nf4"], ["q8", "nf4", "revision", "original"]])
def test_copies_find_their_original_whichever_is_added_first(registry, original, revision, gguf, four_bits, order):
    sources = {"original": original, "revision": revision, "q8": gguf, "nf4": four_bits}
    for name in order:
        registry.bases.add(str(sources[name]), name)
    for copy in ("q8", "nf4"):
        assert relatives(registry, copy) == {("original", "QUANT-OF", True)}
    assert relatives(registry, "original") == {("q8", "QUANT-OF", False), ("nf4", "QUANT-OF", False)}
    assert relatives(registry, "revision") == set()
    assert [one.score for one in registry.bases.get("q8").card.relatives] == [1.0]


def test_a_copy_of_a_revision_is_not_the_original_s(registry, original, revision, tmp_path):
    registry.bases.add(str(original), "original")
    registry.bases.add(str(nf4_checkpoint(revision, tmp_path / "nf4")), "nf4")
    assert relatives(registry, "nf4") == set()
    registry.bases.add(str(revision), "revision")
    assert relatives(registry, "nf4") == {("revision", "QUANT-OF", True)}


def test_a_re_typed_copy_with_other_values_is_found_too(registry, original, tmp_path):
    generator = torch.Generator().manual_seed(1)

    def fine(name, value):
        return value.float() * (1 + 0.001 * torch.rand(value.shape, generator=generator))

    registry.bases.add(str(rewrite(shutil.copytree(original, tmp_path / "f32"), fine)), "f32")
    registry.bases.add(
        str(rewrite(shutil.copytree(tmp_path / "f32", tmp_path / "f16"), lambda name, value: value.half())), "f16"
    )
    assert relatives(registry, "f16") == {("f32", "QUANT-OF", True)}


def test_the_card_says_how_a_base_is_quantised_and_what_the_weights_stand_for(registry, original, gguf, four_bits):
    plain = registry.bases.add(str(original), "original").card
    q8, nf4 = registry.bases.add(str(gguf)).card, registry.bases.add(str(four_bits)).card
    assert nf4.quantisation == Quantisation("bnb-nf4", 4, 64, False, "bfloat16") and nf4.container == "safetensors"
    assert q8.name == "tiny-q8" and q8.quantisation == Quantisation("gguf-q8_0", 8, 32) and q8.container == "gguf"
    assert q8.shapes == nf4.shapes == plain.shapes and q8.parameters == nf4.parameters == plain.parameters
    assert q8.ids.arch_id == nf4.ids.arch_id == plain.ids.arch_id and nf4.ids.cfg_id == plain.ids.cfg_id
    assert registry.bases.add(str(gguf)).card == registry.bases.get("tiny-q8").card


@pytest.mark.parametrize(("trained", "at_hand"), [("original", "nf4"), ("nf4", "original"), ("original", "q8")])
def test_an_adapter_on_a_copy_of_its_base_is_warned_of_and_merges_only_when_that_is_accepted(
    registry, original, four_bits, gguf, llama_adapter, trained, at_hand
):
    for name, source in (("original", original), ("nf4", four_bits), ("q8", gguf)):
        registry.bases.add(str(source), name)
    registry.adapters.push(plan_push(llama_adapter), "voice", None, registry.bases.get(trained))
    version = registry.adapters.resolve(parse_reference("voice"))
    report = registry.adapters.audit(version, registry.bases.get(at_hand).card)
    assert report.verdict is Verdict.QUANT_OF and not report.at_least(Severity.ERR)
    assert [finding.rule for finding in report.at_least(Severity.WARN)] == ["B-QNT-1"]
    for operation in ("push", "serve"):
        require(operation, "voice:1", report)
    with pytest.raises(AuditRefused, match="B-QNT-1"):
        require("merge", "voice:1", report)
    require("merge", "voice:1", report, allow=["B-QNT-1"])


def test_a_copy_that_is_not_registered_is_recognised_when_it_is_looked_at(registry, original, gguf, four_bits):
    registry.bases.add(str(original), "original")
    for source in (gguf, four_bits):
        (found,) = registry.bases.look(str(source)).card.relatives
        assert (found.name, found.verdict, found.original) == ("original", "QUANT-OF", True)
    assert [base.name for base in registry.bases.all()] == ["original"]


def test_a_copy_with_another_configuration_is_no_copy(registry, original, four_bits, llama_adapter, tmp_path):
    registry.bases.add(str(original), "original")
    changed = shutil.copytree(four_bits, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    registry.bases.add(str(changed), "changed")
    registry.adapters.push(plan_push(llama_adapter), "voice", None, registry.bases.get("original"))
    version = registry.adapters.resolve(parse_reference("voice"))
    assert registry.adapters.audit(version, registry.bases.get("changed").card).verdict is Verdict.SAME_ARCH


def test_a_gguf_base_is_verified_but_not_merged_into(registry, original, gguf, tmp_path):
    registry.bases.add(str(original), "original")
    copy = shutil.copy(gguf, tmp_path / "copy.gguf")
    record = registry.bases.add(str(copy), "q8")
    registry.bases.verify("q8")
    with pytest.raises(UnsupportedError) as caught:
        registry.bases.current(record)
    assert "original" in caught.value.instead
    raw = bytearray((tmp_path / "copy.gguf").read_bytes())
    raw[-1000] ^= 1
    (tmp_path / "copy.gguf").write_bytes(raw)
    with pytest.raises(IntegrityError, match="differs"):
        registry.bases.verify("q8")


def test_a_base_whose_relations_cannot_be_judged_is_not_added(registry, original, gguf):
    registry.bases.add(str(original), "original")
    (digest,) = registry.db.execute("select sketch from base").fetchone()
    kept = registry.blobs.path(digest).read_bytes()
    registry.blobs.remove(digest)
    with pytest.raises(IntegrityError, match="is missing"):
        registry.bases.add(str(gguf), "q8")
    assert [base.name for base in registry.bases.all()] == ["original"]
    assert registry.db.execute("select count(*) from lease").fetchone() == (0,)
    registry.blobs.path(digest).write_bytes(kept)
    registry.bases.add(str(gguf), "q8")
    assert relatives(registry, "q8") == {("original", "QUANT-OF", True)}


def test_the_sketch_is_a_blob_that_a_clean_up_keeps(registry, original):
    registry.bases.add(str(original), "original")
    (digest,) = registry.db.execute("select sketch from base").fetchone()
    registry.blobs.check(digest)
    assert registry.db.execute("select digest from blob").fetchall() == [(digest,)]
    assert registry.db.execute("select count(*) from lease").fetchone() == (0,)
