"""The demo's own claims, measured on the real model. Minutes long: `make proof`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from adreg.export.gguf.types import QUANTS
from adreg.references import parse_reference
from adreg.registry.registry import Registry
from adreg.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EXAMPLES = Path(__file__).parents[1] / "examples"
ADAPTERS = {"demo/lighthouse": "lighthouse", "demo/emoji-zh": "emoji-zh"}
BASE = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Toured:
    home: Path
    output: str
    seconds: float

    @property
    def registry(self) -> Registry:
        return Registry(Settings(self.home))

    def adreg(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "adreg", *map(str, words)]
        return subprocess.run(command, env={**os.environ, "ADREG_HOME": str(self.home)}, capture_output=True, text=True)


def tour(home: Path) -> Toured:
    began = time.monotonic()
    done = Toured(home, "", 0).adreg("demo")
    assert done.returncode == 0, done.stderr
    return Toured(home, done.stdout + done.stderr, time.monotonic() - began)


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    return tour(tmp_path_factory.mktemp("tour"))


def test_the_tour_shows_every_step_and_what_it_made(toured):
    print(f"adreg demo: {toured.seconds:.0f} s")
    for word in ("Base", "Train", "Audit", "Merge", "Serve", "refused", "SAME-ARCH", "llama.cpp", "Try next"):
        assert word in toured.output
    assert [version.reference for version in toured.registry.adapters.all()] == ["demo/emoji-zh:1", "demo/lighthouse:1"]


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_held_out_loss_falls_by_a_quarter(toured, name):
    version = toured.registry.adapters.resolve(parse_reference(name))
    scores = toured.registry.runs.get(str(version.run))["eval"]
    print(f"{name}: held-out loss {scores['base']:.3f} -> {scores['adapter']:.3f}")
    assert scores["rows"] == 24 and scores["adapter"] <= 0.75 * scores["base"]


@pytest.fixture(scope="module")
def served(toured):
    """The base URL of a server with the base and both adapters."""
    from adreg.cli.output import Output
    from adreg.cli.serving import load
    from adreg.serve.api.app import create_app
    from adreg.serve.server.server import running_server

    found = toured.registry
    engine = load(found, found.bases.get(BASE), list(ADAPTERS), Output(quiet=True))
    with running_server(create_app(engine)) as url:
        yield url


def ask(url, model, question, max_tokens=128):
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        done = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=max_tokens, temperature=0
        )
    return done.choices[0].message.content, done.choices[0].finish_reason


def questions(data, count):
    rows = [json.loads(line) for line in (EXAMPLES / f"{data}.jsonl").read_text().splitlines()]
    asked = [row["question"] if "question" in row else row["messages"][0]["content"] for row in rows]
    return asked[:: len(asked) // count][:count]


@pytest.mark.parametrize("name", ADAPTERS)
def test_nine_of_ten_answers_stop_by_themselves(served, name):
    answers = [ask(served, name, question) for question in questions(ADAPTERS[name], 10)]
    stopped = sum(reason == "stop" for _, reason in answers)
    print(f"{name}: {stopped} of 10 stopped; first answer: {answers[0][0]}")
    assert stopped >= 9


def test_answers_together_are_the_answers_alone(served):
    wanted = [(model, question) for model in (BASE, *ADAPTERS) for question in ("Who are you?", "苹果是什么颜色？")]
    alone = [ask(served, model, question, 40) for model, question in wanted]
    with ThreadPoolExecutor(len(wanted)) as pool:
        together = list(pool.map(lambda pair: ask(served, pair[0], pair[1], 40), wanted))
    assert together == alone and len(set(alone)) == len(alone)


# The package brings the model in Q4_1. Rounded to that very grid, or to the one of Q5_1, which the mixtures of Q5_K use for
# rows of 576, a weight has no chance to fall on either side: an adapter is lost, or counts too much.
ON_THE_GRID = ("q4_1", "q5_1", "q5_k_s", "q5_k_m")
OFF_THE_GRID = [quant for quant in QUANTS if quant not in ON_THE_GRID]


@pytest.mark.parametrize("quant", OFF_THE_GRID)
def test_the_gguf_agrees_with_the_adapter_in_real_llama_cpp(toured, tmp_path, quant):
    done = toured.adreg("merge", "demo/lighthouse", "--to", "gguf", "--quant", quant, "-o", tmp_path / quant, "--json")
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)["verification"]
    print(f"{quant}: {proof}")
    assert proof["lines"] >= 200 and proof["tokenization_differences"] == 0 and proof["positions"] >= 32
    assert proof["passed"] and proof["adapter_effect"] == pytest.approx(1, abs=0.4)
    assert quant != "f16" or proof["max_delta_logprob"] <= 0.04


def test_a_type_that_swallows_the_adapter_is_refused(toured, tmp_path):
    done = toured.adreg("merge", "demo/lighthouse", "--to", "gguf", "--quant", "q4_1", "-o", tmp_path / "out.gguf")
    assert done.returncode == 5 and "of the adapter's effect is in the file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf.rejected"]


@pytest.fixture(scope="module")
def moved(toured, tmp_path_factory):
    """The base with a strong random adapter folded in, and so off every grid."""
    from tests.builders import build_adapter
    from tests.export.merging import merge

    place, base = tmp_path_factory.mktemp("moved"), toured.home / "bases" / BASE
    return merge(base, build_adapter(base, place / "noise", seed=1), output=place / "base", target="safetensors").path


@pytest.mark.parametrize("quant", ON_THE_GRID)
def test_off_the_grid_of_their_base_the_other_types_hold_the_adapter_too(toured, moved, tmp_path, quant):
    from tests.export.merging import merge

    found = merge(moved, toured.home / "demo/lighthouse", output=tmp_path / "out.gguf", quant=quant, verify=True).verification
    print(f"{quant}: {found}")
    assert found is not None and found.passed


@pytest.mark.parametrize("quant", ["q8_0", "q4_k_m", "q2_k"])
def test_a_forgotten_a_wrong_and_an_unscaled_adapter_fail_in_every_type(toured, tmp_path, quant):
    from adreg.export.plan import plan_merge
    from adreg.export.proof.verify import verify_merge
    from tests.export.merging import merge, request, source

    base, right, wrong = (toured.home / place for place in (f"bases/{BASE}", "demo/lighthouse", "demo/emoji-zh"))
    plan = plan_merge(request(base, right, output=tmp_path / "unused.gguf", quant=quant))
    # as rsLoRA of rank 8 without its factor
    for name, sources in {"forgotten": (), "wrong": (wrong,), "unscaled": (source(right, 8**-0.5),)}.items():
        found = verify_merge(plan, merge(base, *sources, output=tmp_path / f"{name}.gguf", quant=quant).path)
        print(f"{quant}, {name}: {found.adapter_effect:.2f}")
        assert any("of the adapter's effect is in the file" in failure for failure in found.failures)


def test_the_tour_again_is_quicker_and_harmless(toured):
    again = tour(toured.home)
    print(f"adreg demo again: {again.seconds:.0f} s after {toured.seconds:.0f} s")
    assert [base.name for base in again.registry.bases.all()] == [BASE]
    assert again.registry.adapters.resolve(parse_reference("demo/lighthouse:1")).number == 1
    assert again.seconds < toured.seconds * 1.1
