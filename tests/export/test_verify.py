from __future__ import annotations

import json
import shutil

import pytest

from adreg.errors import VerificationFailed
from adreg.export.proof.corpus import corpus
from adreg.export.proof.llamacpp import llamacpp
from adreg.export.proof.verify import Subject, verify_gguf
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.export.merging import merge, source


def verified(path, base, *sources, **settings):
    return verify_gguf(path, Subject(open_checkpoint(base), tuple(map(source, sources)), **settings))


def test_a_faithful_export_does_in_llamacpp_what_the_adapters_do_on_their_base(
    tiny_llama, llama_adapter, other_adapter, tmp_path
):
    sources = (source(llama_adapter), source(other_adapter, -0.5))
    result = merge(tiny_llama, *sources, output=tmp_path / "out.gguf", quant="f32")
    found = verify_gguf(result.path, Subject(open_checkpoint(tiny_llama), sources))
    assert found.passed and found.tokenization_differences == 0 and found.template_differences == 0
    assert found.max_delta_logprob < 0.001
    assert found.adapter_effect == pytest.approx(1, abs=0.001)
    assert (found.positions, found.conversations, found.top1_agreement) == (96, 3, 1.0)
    assert found.lines == len(corpus(["x"] * 8)) >= 200
    found.require()


def test_q8_0_is_judged_by_its_own_limits(tiny_llama, llama_adapter, tmp_path):
    result = merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf", quant="q8_0")
    found = verified(result.path, tiny_llama, llama_adapter)
    assert found.file_type == "MOSTLY_Q8_0" and found.passed
    assert found.max_delta_logprob > 0.001
    assert found.adapter_effect == pytest.approx(1, abs=0.05)


def test_another_adapter_tokenizer_and_chat_template_are_all_found(tiny_llama, llama_adapter, other_adapter, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    definition = json.loads((base / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = definition["pre_tokenizer"]["pretokenizers"][1]
    (base / "tokenizer.json").write_text(json.dumps(definition))
    template = (base / "chat_template.jinja").read_text().replace("<|im_end|>", "<|im_end|> ")
    result = merge(base, other_adapter, output=tmp_path / "out.gguf", quant="q8_0", chat_template=template)
    found = verified(result.path, tiny_llama, llama_adapter)
    assert found.tokenization_differences > 5
    assert found.template_differences == 3
    assert found.adapter_effect is not None and found.adapter_effect < 0.5
    assert len(found.failures) >= 3
    with pytest.raises(VerificationFailed, match="of the adapter's effect"):
        found.require()


def test_a_file_that_llamacpp_does_not_load_fails_with_its_words(tiny_llama, llama_adapter, tmp_path):
    result = merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(result.path.read_bytes()[:-1000])
    with pytest.raises(VerificationFailed, match=r"cut\.gguf: .* data is not within the file bounds"):
        verified(cut, tiny_llama, llama_adapter)


def test_llamacpp_is_stopped_after_an_error_and_never_writes_to_the_terminal(tiny_llama, llama_adapter, tmp_path, capfd):
    result = merge(tiny_llama, llama_adapter, output=tmp_path / "out.gguf")
    capfd.readouterr()
    with pytest.raises(KeyboardInterrupt), llamacpp(result.path, context=64) as model:
        assert model.tokenize("Hello", add_special=False, parse_special=False) == [19556]
        raise KeyboardInterrupt
    with pytest.raises(ConnectionRefusedError):
        model.tokenize("Hello", add_special=False, parse_special=False)
    assert capfd.readouterr() == ("", "")
