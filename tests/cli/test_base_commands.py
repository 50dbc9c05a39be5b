"""What `adreg base` and `adreg merge` say of quantised bases."""

import json

from tests.builders import build_checkpoint
from tests.formats.quantisers import nf4_checkpoint


def test_the_command_line_shows_relatives_and_asks_before_merging_into_the_original(adreg, llama_adapter, tmp_path):
    original = build_checkpoint(tmp_path / "original", "llama", None, vocab_size=320)
    four_bits = nf4_checkpoint(original, tmp_path / "nf4")
    assert adreg("base", "add", four_bits, "--name", "nf4").code == 0
    assert adreg("base", "add", original, "--name", "original").code == 0
    shown = adreg("base", "show", "nf4").out
    assert "bnb-nf4, 4 bits, 64 values a scale" in shown and "made from     original (QUANT-OF, score 1.0000" in shown
    assert json.loads(adreg("base", "show", "original", "--json").out)["relatives"][0]["name"] == "nf4"
    assert adreg("push", llama_adapter, "voice", "--base", "nf4").code == 0
    words = ["merge", "voice", "--base", "original", "--to", "safetensors", "-o", tmp_path / "merged"]
    refused = adreg(*words)
    assert refused.code == 4 and "B-QNT-1" in refused.err and not (tmp_path / "merged").exists()
    assert adreg(*words, "--allow", "B-QNT-1", "--dry-run").code == 0 and "allowed" not in adreg("log", "voice").out
    done = adreg(*words, "--allow", "B-QNT-1")
    assert done.code == 0 and "B-QNT-1 allowed" in done.err and (tmp_path / "merged" / "model.safetensors").exists()
    newest = json.loads(adreg("log", "voice", "--json").out)[0]
    assert (newest["verb"], newest["version"], newest["operation"], newest["rules"]) == ("allowed", 1, "merge", ["B-QNT-1"])
    assert newest["findings"][0]["message"].startswith("original is the original") and newest["verdict"] == "QUANT-OF"
    assert adreg(*words, "--allow", "B-NO-1").code == 2
    onto_copy = adreg("merge", "voice", "--base", "nf4", "--to", "safetensors", "-o", tmp_path / "other")
    assert onto_copy.code != 0 and "quantised" in onto_copy.err
