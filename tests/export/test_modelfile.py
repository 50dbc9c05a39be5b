from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adreg.errors import ConflictError, UnsupportedError, UsageError
from adreg.export.ollama.chatml import ChatMl, chatml_of
from adreg.export.ollama.modelfile import Modelfile, parse_modelfile, read_modelfile
from adreg.export.ollama.recommended import licenses, modelfile_of
from adreg.export.plan import plan_merge
from adreg.formats.bases.checkpoint import open_checkpoint
from tests.export.merging import request
from tests.export.tiny_gguf import CHATML


def modelfile(plan):
    return modelfile_of(plan).text()


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


def test_a_default_system_prompt_that_no_modelfile_can_hold_is_left_in_the_file(tiny_llama, llama_adapter, tmp_path):
    default = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe\u00a0kind.<|im_end|>\n{% endif %}" + CHATML
    text = modelfile(plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "x.gguf", chat_template=default)))
    assert "# No TEMPLATE: Ollama uses the Jinja" in text and "SYSTEM" not in text


def test_a_text_that_would_end_its_own_quotes_is_refused(tiny_llama, llama_adapter, tmp_path):
    plan = plan_merge(request(tiny_llama, llama_adapter, output=tmp_path / "x.gguf", system='a """\nFROM other'))
    with pytest.raises(UsageError, match="triple quotes"):
        modelfile(plan)


def test_chatml_is_recognised_by_what_it_renders():
    default = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    assert chatml_of(CHATML) == ChatMl(None) and chatml_of(default + CHATML) == ChatMl("Be kind.")
    for other in (
        CHATML.replace("<|im_end|>\n", "<|im_end|>"),
        CHATML.replace("message.content", "message.content | upper"),
        default.replace("Be kind.", "{{ strftime_now('%Y') }}") + CHATML,
        "Hello. " + CHATML,
        "{{ raise_exception('no') }}",
        "{{ messages + 1 }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    ):
        assert chatml_of(other) is None, other


def test_the_adapters_own_chat_template_wins_and_two_of_them_must_agree(tiny_llama, llama_adapter, other_adapter, tmp_path):
    one, two = (shutil.copytree(folder, tmp_path / folder.name) for folder in (llama_adapter, other_adapter))
    (one / "chat_template.jinja").write_text(CHATML)
    assert plan_merge(request(tiny_llama, one, two, output=tmp_path / "out")).chat_template == CHATML
    (two / "chat_template.jinja").write_text(CHATML + " ")
    with pytest.raises(ConflictError, match="one and two carry different chat templates"):
        plan_merge(request(tiny_llama, one, two, output=tmp_path / "out"))
    settled = plan_merge(request(tiny_llama, one, two, output=tmp_path / "out", chat_template="mine"))
    assert settled.chat_template == "mine"


def test_the_licence_is_that_of_the_bases_files_or_else_of_its_card(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    assert licenses(open_checkpoint(folder)) == ()
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: llama3\n---\n# A base\n")
    assert licenses(open_checkpoint(folder)) == ("other\nllama3",)
    (folder / "LICENSE.txt").write_text(' Say \f"""free"""\u00a0\n\n')
    (folder / "COPYING").write_text("MIT")
    assert licenses(open_checkpoint(folder)) == ("MIT\n", "Say '''free'''\n")


# after parser/parser_test.go (TestParseFileFile, ...From, ...Messages, ...Quoted, ...Comments)
READINGS = [
    ("FROM model1", Modelfile("model1")),
    ('FROM "FOO BAR"\nPARAMETER top_k 5', Modelfile("FOO BAR", parameters={"top_k": 5})),
    ("FROM C:\\x y.gguf", Modelfile("C:\\x y.gguf")),
    ("\n# comment\n  # more\nfrom  \t./a.gguf  \n", Modelfile("./a.gguf")),
    ('FROM foo\nSYSTEM "  a  "', Modelfile("foo", system="  a  ")),
    ('FROM foo\nSYSTEM """\n  a "quoted" line\n\t"""', Modelfile("foo", system='\n  a "quoted" line\n\t')),
    ('FROM foo\nSYSTEM "one\ntwo"', Modelfile("foo", system="one\ntwo")),
    ('FROM foo\nSYSTEM """"quoted""""', Modelfile("foo", system='"quoted"')),
    ('FROM foo\nTEMPLATE """a""" \nSYSTEM b # c', Modelfile("foo", template="a", system="b # c")),
    ("FROM foo\nMESSAGE system S: x\nMESSAGE user  U", Modelfile("foo", messages=(("system", "S: x"), ("user", "U")))),
    ('FROM foo\nPARAMETER stop "a b"\nPARAMETER\tstop\tc\nPARAMETER use_mmap F',
     Modelfile("foo", parameters={"stop": ["a b", "c"], "use_mmap": False})),
    ("FROM foo\nLICENSE a\nLICENSE b\nADAPTER ./l.gguf", Modelfile("foo", adapter="./l.gguf", licenses=("a", "b"))),
    ("FROM foo\r\nSYSTEM x\r\n", Modelfile("foo", system="x")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meant"), READINGS, ids=[text for text, _ in READINGS])
def test_a_modelfile_is_read_as_ollama_reads_it(text, meant, tmp_path):
    (tmp_path / "Modelfile").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_modelfile(tmp_path / "Modelfile") == meant


REFUSED = {
    "": "has no FROM", "SYSTEM x": "has no FROM", "FROM": "'FROM' is no instruction", "FRM x": "line 1: 'FRM' is no instr",
    "FROM a\n\nFROM b": "FROM appears twice", "FROM a\nSYSTEM b\nSYSTEM c": "SYSTEM appears twice", "FROM  ": "FROM",
    'FROM a\nSYSTEM ""': "SYSTEM says nothing", 'FROM a\nSYSTEM """x': "line 2: its quotes are never closed",
    'FROM a\nSYSTEM "x\n': "never closed", "FROM a\nMESSAGE bot x": "'bot' is no role", "FROM a\nMESSAGE": "no instruction",
    "FROM a\nPARAMETER nope 1": "no parameter 'nope'", "FROM a\nPARAMETER mirostat 1": "no parameter 'mirostat'",
    "FROM a\nPARAMETER top_k 1.5": "top_k cannot be '1.5'", "FROM a\nPARAMETER top_p nan": "top_p cannot be 'nan'",
    "FROM a\nPARAMETER use_mmap yes": "use_mmap cannot be 'yes'", "FROM a\nPARAMETER stop": "stop cannot be ''",
    "FROM a\nPARAMETER top_k 1\nPARAMETER top_k 2": "top_k appears twice", "FROM a\nPARAMETER temperature": "cannot be ''",
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.items())
def test_what_a_modelfile_cannot_mean_is_refused_by_name(text, why):
    with pytest.raises(UsageError, match=why):
        parse_modelfile(text, "Modelfile")


@pytest.mark.parametrize("name", ["RENDERER", "parser", "REQUIRES", "DRAFT"])
def test_instructions_that_adreg_does_not_carry_out_are_not_passed_over(name):
    with pytest.raises(UnsupportedError, match=f"line 2: {name.upper()}"):
        parse_modelfile(f"FROM a\n{name} x", "Modelfile")


CHARACTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=' \n\t"')
TEXTS = st.text(CHARACTERS, min_size=1).filter(lambda text: '"""' not in text)
WORDS = TEXTS.filter(lambda text: "\n" not in text)
VALUES = {
    "stop": st.lists(TEXTS, min_size=1, unique=True),
    "temperature": st.floats(allow_nan=False, allow_infinity=False),
    "seed": st.integers(-(10**17), 10**17),
    "use_mmap": st.booleans(),
}
MODELFILES = st.builds(
    Modelfile,
    model=WORDS,
    adapter=st.none() | WORDS,
    template=st.none() | TEXTS,
    system=st.none() | TEXTS,
    parameters=st.fixed_dictionaries({}, optional=VALUES),
    messages=st.lists(st.tuples(st.sampled_from(("system", "user", "assistant")), TEXTS)).map(tuple),
    licenses=st.lists(TEXTS).map(tuple),
)


@given(MODELFILES)
def test_whatever_is_written_is_read_back(wanted):
    assert parse_modelfile(wanted.text(), "Modelfile") == wanted


@pytest.mark.parametrize("text", ["a\u00a0b", "full\u3000width", "👩\u200d💻", "\x07"])
def test_a_character_that_ollama_drops_from_a_modelfile_is_refused(text):
    with pytest.raises(UsageError, match=r"would drop the character U\+"):
        Modelfile("a", system=text).text()
