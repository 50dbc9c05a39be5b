from __future__ import annotations

import pytest

from adreg.errors import ConflictError, UsageError
from adreg.export.modelfile import is_chatml, modelfile
from adreg.export.plan import plan_merge
from tests.export.merging import request

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_chatml_model_gets_a_go_template_its_stop_text_and_its_default_system_prompt(tiny_llama, llama_adapter, tmp_path):
    plan = plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "my model.gguf"))
    assert modelfile(plan) == (
        "FROM ./my model.gguf\n"
        'PARAMETER stop "<|im_end|>"\n'
        'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n'
        "{{ .Content }}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n"
        '"""\n'
        'SYSTEM """You are a helpful AI assistant named SmolLM, trained by Hugging Face"""\n'
    )


def test_another_template_is_left_to_the_one_in_the_file(tiny_llama, llama_adapter, tmp_path):
    settings = {"chat_template": CHATML.replace("<|im_start|>", "<start>"), "system": 'Say "yes"\nor no.'}
    text = modelfile(plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "x.gguf", **settings)))
    assert "\nTEMPLATE" not in text and "# No TEMPLATE: Ollama uses the Jinja chat template" in text
    assert text.endswith('SYSTEM """Say "yes"\nor no."""\n')


def test_a_text_that_would_end_its_own_quotes_is_refused(tiny_llama, llama_adapter, tmp_path):
    plan = plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "x.gguf", system='a """\nFROM other'))
    with pytest.raises(UsageError, match="triple quotes"):
        modelfile(plan)


def test_chatml_is_recognised_by_what_it_renders():
    assert is_chatml(CHATML)
    assert not is_chatml(CHATML.replace("<|im_end|>\n", "<|im_end|>"))
    assert not is_chatml(CHATML.replace("message.content", "message.content | upper"))
    assert not is_chatml("{{ raise_exception('no') }}")
    assert not is_chatml("{{ messages + 1 }}")


def test_the_adapters_own_chat_template_wins_and_two_of_them_must_agree(tiny_llama, llama_adapter, other_adapter, tmp_path):
    import shutil

    one, two = (shutil.copytree(folder, tmp_path / folder.name) for folder in (llama_adapter, other_adapter))
    (one / "chat_template.jinja").write_text(CHATML)
    assert plan_merge(request(tiny_llama, one, two, output=tmp_path / "out")).chat_template == CHATML
    (two / "chat_template.jinja").write_text(CHATML + " ")
    with pytest.raises(ConflictError, match="one and two carry different chat templates"):
        plan_merge(request(tiny_llama, one, two, output=tmp_path / "out"))
    settled = plan_merge(request(tiny_llama, one, two, output=tmp_path / "out", chat_template="mine"))
    assert settled.chat_template == "mine"
