import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def pushed(adreg, tiny_llama, llama_adapter):
    assert adreg("base", "add", tiny_llama, "--name", "tiny").code == 0
    assert adreg("push", llama_adapter, "voice:prod", "--base", "tiny").code == 0
    assert adreg("tag", "add", "voice", "fresh").code == 0


HELP = [["--help"], ["audit", "--help"], ["serve", "--help"], ["train", "--help"], ["merge", "--help"], ["demo", "--help"]]
LISTS = [["--version"], ["ls"], ["base", "ls"], ["alias", "ls"], ["runs", "ls"], ["recipes", "ls"]]
HEAVY = {"torch", "transformers", "peft", "fastapi", "pandas", "xllamacpp"}
RUN = """
import sys
from adreg.cli.app import main
for words in {commands!r}:
    sys.argv = ["adreg", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
print("heavy:", sorted({heavy!r} & set(sys.modules)))
"""


def heavy_imports(*commands):
    code = RUN.format(commands=[[str(word) for word in words] for words in commands], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", HELP + LISTS)
def test_light_commands_never_import_the_heavy(home, words):
    assert heavy_imports(words) == "heavy: []"


def test_push_and_audit_import_no_torch(home, tiny_llama, llama_adapter):
    add, push = ["base", "add", tiny_llama, "--name", "t"], ["push", llama_adapter, "v", "-b", "t"]
    assert heavy_imports(add, push, ["audit", "v"], ["show", "v"]) == "heavy: []"


READING = [
    ["ls"],
    ["show", "voice"],
    ["log", "voice"],
    ["log", "voice:prod"],
    ["log", "voice", "--graph"],
    ["diff", "voice", "voice:prod"],
    ["search", "voi"],
    ["tag", "ls"],
    ["alias", "ls"],
    ["base", "ls"],
    ["base", "show", "tiny"],
    ["audit", "voice"],
]


@pytest.mark.parametrize("words", READING)
def test_every_reading_command_speaks_json_and_quiet(adreg, pushed, words):
    result = adreg(*words, "--json")
    assert result.code == 0 and result.err == "" and json.loads(result.out)
    told = adreg(*words)
    assert told.code == 0 and told.out and "Traceback" not in told.err
    quiet = adreg(*words, "-q")
    assert quiet.code == 0 and quiet.err == "" and "REFERENCE" not in quiet.out


def test_data_goes_to_stdout_and_everything_else_to_stderr(adreg, tiny_llama, llama_adapter):
    added = adreg("base", "add", tiny_llama, "--name", "tiny")
    assert added.out == "" and "✓ base tiny" in added.err
    assert adreg("push", llama_adapter, "voice", "-b", "tiny", "-q").out == "voice:1\n"
    again = adreg("push", llama_adapter, "voice", "-b", "tiny")
    assert again.code == 0 and "already there" in again.err
    listed = adreg("ls")
    assert listed.err == "" and "voice:1" in listed.out and "tiny" in listed.out


def test_nothing_yet_is_said_with_the_next_command(adreg):
    assert "adreg push" in adreg("ls").err and adreg("ls", "--json").out.strip() == "[]"


def test_exit_codes_and_hints(adreg, pushed, llama_adapter, gpt2_adapter, tmp_path):
    cases = {
        ("show", "voise"): (3, "did you mean voice"),
        ("show", "voice:9"): (3, "voice:1"),
        ("show", "Voice"): (2, "name@sha256"),
        ("push", llama_adapter, "voice:3"): (2, "numbered by themselves"),
        ("push", gpt2_adapter, "other", "-b", "tiny"): (4, "B-SHP-1"),
        ("push", tmp_path / "nowhere", "x"): (3, "folder"),
        ("push", tmp_path, "x"): (5, "adapter_config.json"),
        ("pull", "voice", llama_adapter): (4, "already exists"),
        ("base", "show", "nobody"): (3, "adreg base ls"),
        ("rm", "voice"): (4, "--yes"),
        ("alias", "set", "voice", "7"): (2, "never a bare number"),
        ("alias", "set", "voice", "prod", "--expect", "2"): (4, "means version 1 now"),
        ("alias", "set", "voice", "prod", "--expect", "prod"): (2, "number"),
        ("alias", "rm", "voice:prod", "--expect", "none"): (4, "means version 1 now"),
        ("yank", "voice"): (4, "--force"),
        ("tag", "add", "voice", "Not a tag"): (2, "key=value"),
        ("tag", "rm", "voice", "absent"): (3, "fresh"),
        ("describe", "voise", "x"): (3, "did you mean voice"),
        ("trace", tmp_path / "nowhere"): (3, "nowhere"),
        ("ls", "voise"): (3, "did you mean voice"),
        ("ls", "--base", "nobody"): (3, "adreg base ls"),
        ("frobnicate",): (2, "No such command"),
        ("audti",): (2, "Did you mean"),
    }
    for words, (code, text) in cases.items():
        result = adreg(*words)
        assert (result.code, text in result.err) == (code, True), (words, result)
        assert "Traceback" not in result.err and result.out == ""


def test_debug_shows_the_traceback(process):
    assert "Traceback" in process("show", "nobody", ADREG_DEBUG="1").err


def test_audit_exits_with_five_from_the_chosen_severity(adreg, pushed, llama_adapter, tiny_llama, tmp_path):
    assert adreg("audit", "voice").code == 0
    unknown = adreg("audit", llama_adapter, "-b", "tiny", "--json")
    assert unknown.code == 0 and json.loads(unknown.out)["verdict"] == "UNKNOWN"
    assert adreg("audit", llama_adapter, "-b", "tiny", "--fail-on", "warn").code == 5
    noisy = shutil.copytree(tiny_llama, tmp_path / "noisy")
    tensors = load_file(noisy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] += 0.01
    (noisy / "model.safetensors").unlink()
    save_file(tensors, noisy / "model.safetensors", {"format": "pt"})
    refused = adreg("audit", "voice", "-b", noisy)
    assert refused.code == 5 and "SAME-ARCH" in refused.out and "B-ID-1" in refused.out


def test_bad_files_are_refused_with_nothing_stored(adreg, llama_adapter, tmp_path):
    cut = shutil.copytree(llama_adapter, tmp_path / "cut")
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    pickle = shutil.copytree(llama_adapter, tmp_path / "pickle")
    (pickle / "adapter_model.safetensors").rename(pickle / "adapter_model.bin")
    for folder, text in ((cut, "cut short"), (pickle, "never opens it")):
        result = adreg("push", folder, "bad")
        assert result.code == 5 and text in result.err and "Hint:" in result.err
    assert adreg("ls", "--json").out.strip() == "[]"


def test_the_whole_life_of_a_name(adreg, pushed, tmp_path):
    assert adreg("alias", "set", "voice:1", "best").code == 0
    assert adreg("alias", "rm", "voice:prod").code == 0
    assert adreg("pull", "voice:best", tmp_path / "out").code == 0 and (tmp_path / "out" / "adapter_config.json").exists()
    assert adreg("rm", "voice", "--yes").code == 0 and adreg("show", "voice").code == 3
    assert adreg("restore", "voice").code == 0 and adreg("show", "voice:best").code == 0


def test_what_people_write_is_found_shown_and_listed(adreg, pushed):
    assert adreg("describe", "voice", "answers like a lighthouse keeper").code == 0
    assert adreg("note", "voice:1", "tone is right").code == 0
    assert adreg("tag", "add", "voice:1", "stage=test").code == 0
    assert adreg("alias", "set", "voice:1", "prod", "--protect").code == 0
    assert adreg("search", "lighth", "-q").out == "voice\n"
    assert "stage=test" in adreg("ls", "--tag", "stage=test", "--base", "tiny").out
    assert adreg("ls", "--tag", "absent", "-q").out == ""
    shown = adreg("show", "voice:1")
    for text in (
        "lighthouse keeper",
        "tone is right",
        "fresh, stage=test",
        "prod (protected)",
        "tiny (declared by who pushed it)",
    ):
        assert text in shown.out, text
    assert json.loads(adreg("show", "voice:1", "--json").out)["protected"] == ["prod"]


def test_a_yanked_version_is_marked_refused_by_number_and_allowed_by_digest(adreg, pushed, tmp_path):
    digest = json.loads(adreg("show", "voice", "--json").out)["digest"]
    assert adreg("yank", "voice", "--reason", "leaks names", "--force").code == 0
    assert "yanked" in adreg("ls", "voice").out and adreg("ls", "-q").out == ""
    refused = adreg("show", "voice:1")
    assert refused.code == 3 and "leaks names" in refused.err and f"voice@{digest[:19]}" in refused.err
    assert "leaks names" in adreg("show", f"voice@{digest}").out
    merged = adreg("merge", f"voice@{digest}", "--to", "safetensors", "-o", tmp_path / "out", "--dry-run")
    assert merged.code == 0 and "was yanked: leaks names" in merged.err
    assert adreg("yank", "--undo", "voice:1").code == 0 and adreg("show", "voice:1").code == 0


def test_a_file_is_traced_or_called_unknown(adreg, pushed, llama_adapter, tmp_path):
    known = adreg("trace", llama_adapter, "--json")
    assert known.code == 0 and json.loads(known.out)["matches"][0]["reference"] == "voice:1"
    (tmp_path / "file").write_text("nothing")
    unknown = adreg("trace", tmp_path / "file")
    assert unknown.code == 3 and "size = 7" in unknown.out and "known" in unknown.err


def test_a_hard_linked_pull_shares_the_files_and_they_are_read_only(adreg, pushed, tmp_path, home):
    assert adreg("pull", "voice", tmp_path / "out", "--hardlink").code == 0
    file = tmp_path / "out" / "adapter_model.safetensors"
    assert file.stat().st_nlink == 2 and not file.stat().st_mode & 0o222
    assert adreg("pull", "voice", tmp_path / "copy").code == 0
    assert (tmp_path / "copy" / "adapter_model.safetensors").stat().st_nlink == 1


def test_control_characters_from_outside_cannot_reach_the_terminal(adreg):
    result = adreg("show", "a\x1b[31m")
    assert "\x1b" not in result.err and result.code == 2
