"""The commands of the whole way, each in a process of its own, on a tiny real model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from openai import OpenAI

ROWS = [{"question": f"What is {n}?", "answer": f"{n} is a number, sailor."} for n in range(24)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def trained(process, tiny_llama, data, tmp_path):
    """A registry in which `voice:dev` was trained and pushed by the command line."""
    assert process("base", "add", tiny_llama, "--name", "tiny").code == 0
    words = ["--base", "tiny", "--data", data, "--set", "train.max_steps=3", "--out", tmp_path / "out", "--push", "voice:dev"]
    result = process("train", *words, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.slow
def test_a_training_is_recorded_pushed_audited_and_merged(trained, process, tmp_path):
    assert trained["base"]["name"] == "tiny" and len(trained["losses"]) == 3 and trained["data"][0]["sha256"]
    assert (tmp_path / "out" / "loss.svg").read_text().startswith("<svg")
    shown = json.loads(process("show", "voice:dev", "--json").out)
    assert shown["evidence"] == "recorded" and shown["run"]["id"] == trained["id"] and shown["base"] == "tiny"
    assert json.loads(process("runs", "show", trained["id"][:8], "--json").out)["id"] == trained["id"]
    clean = process("audit", "voice", "--fail-on", "warn")
    assert clean.code == 0 and "EXACT, clean" in clean.out

    plan = process("merge", "voice", "--to", "safetensors", "-o", tmp_path / "merged", "--dry-run", "--json")
    assert plan.code == 0 and json.loads(plan.out)["adapted"] == 14 and not (tmp_path / "merged").exists()
    assert process("merge", "voice", "--to", "safetensors", "-o", tmp_path / "merged").code == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()
    gguf = process("merge", "voice=0.5", "--quant", "f16", "-o", tmp_path / "gguf", "--json")
    assert gguf.code == 0, gguf.err
    proof = json.loads(gguf.out)["verification"]
    assert proof["passed"] and proof["tokenization_differences"] == 0 and proof["lines"] >= 200
    kinds = [artifact["kind"] for artifact in json.loads(process("show", "voice", "--json").out)["artifacts"]]
    assert kinds == ["gguf", "safetensors"]


def test_data_is_checked_without_training(process, tiny_llama, data):
    result = process("data", "check", data, "-b", tiny_llama, "--json")
    report = json.loads(result.out)
    assert (report["rows"], report["used"], report["form"]) == (24, 24, "question/answer")
    shown = process("data", "check", data, "-b", tiny_llama, "--samples", "1")
    assert shown.code == 0 and "0 is a number, sailor.<|im_end|>" in shown.out and "learned" in shown.out


def test_a_changed_base_refuses_merge_and_serve(trained, process, home, tiny_llama, tmp_path):
    copy = shutil.copytree(tiny_llama, tmp_path / "base")
    assert process("base", "add", copy, "--name", "moved").code == 0
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    for words in (["merge", "voice", "-b", "moved", "-o", tmp_path / "x"], ["serve", "voice", "-b", "moved", "--port", "0"]):
        refused = process(*words)
        assert refused.code == 5 and "cfg_id" in refused.err
    assert not (tmp_path / "x").exists()


def test_the_server_answers_the_official_client_and_stops(trained, home):
    command = [sys.executable, "-m", "adreg", "serve", "voice:dev", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert server.stderr is not None
        told = next(line for line in server.stderr if "serving" in line)
        (url,) = re.findall(r"http://\S+/v1", told)
        with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            names = [model.id for model in client.models.list()]
            assert names[0] == "tiny" and {"voice", "voice:1", "voice:dev"} <= set(names)
            answers = {
                name: client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "What is 7?"}], max_tokens=8, temperature=0
                )
                for name in ("tiny", "voice", "voice:dev")
            }
        assert answers["voice"].choices[0].message.content == answers["voice:dev"].choices[0].message.content
        assert answers["voice"].system_fingerprint != answers["tiny"].system_fingerprint
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 130


def test_bad_input_is_refused_by_name_before_anything_is_written(process, tiny_llama, data, tmp_path):
    assert process("base", "add", tiny_llama, "--name", "tiny").code == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(ROWS[0]) + '\n{"question": "half\n')
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    train = ["train", "--base", "tiny", "--out", tmp_path / "out"]
    cases = [
        ([*train, "--data", bad], 1, "bad.jsonl:2"),
        ([*train, "--data", tmp_path / "none.jsonl"], 3, "none.jsonl"),
        ([*train, "--data", data, "--set", "lora.rank=4"], 2, "lora.r"),
        ([*train, "--data", data, "--set", "lora.r=eight"], 2, "lora.r"),
        ([*train], 2, "data"),
        (["train", "--data", data], 2, "which base"),
        (["base", "add", broken], 5, "model-00002-of-00002.safetensors"),
        (["merge", "nobody", "-o", tmp_path / "x"], 3, "nobody"),
        (["serve", "--base", "tiny", "--host", "0.0.0.0"], 2, "API key"),
        (["serve"], 2, "nothing to serve"),
    ]
    for words, code, text in cases:
        result = process(*words)
        assert (result.code, text in result.err, "Traceback" in result.err) == (code, True, False), (words, result)
    assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists()
    assert json.loads(process("base", "ls", "--json").out)[0]["name"] == "tiny"
