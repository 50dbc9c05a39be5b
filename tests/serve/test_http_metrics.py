"""What is counted, in text that Prometheus' own parser reads, and the access log's lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from adreg.serve.api.service import Options
from adreg.serve.generation import Generation
from adreg.serve.server.metrics import Metrics
from tests.serve.parrot import digest_of, served

CHAT = "/v1/chat/completions"


def ask(**changes: Any) -> dict[str, Any]:
    return {"model": "demo/fox", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 5, **changes}


def scraped(http: httpx2.Client) -> dict[tuple[str, ...], float]:
    """Every number by its name and the values of its labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_requests_tokens_times_and_adapters_are_counted(tokenizer_folder: Path) -> None:
    options = Options(metrics=Metrics(), vllm_names=True)
    with served(tokenizer_folder, options) as (url, _, _), httpx2.Client(base_url=url) as http:
        prompt = http.post(CHAT, json=ask()).json()["usage"]["prompt_tokens"]
        http.post(CHAT, json=ask(model="demo/fox:prod", stream=True, temperature=0, max_tokens=30))
        http.post(CHAT, json=ask(model="demo/broken"))
        http.post(CHAT, json=ask(model="nobody"))
        told = scraped(http)
    assert told["adreg_requests_total", "demo/fox", "200"] == 2
    assert told["adreg_requests_total", "demo/broken", "422"] == 1
    assert told["adreg_requests_total", "none", "404"] == 1
    assert told["adreg_tokens_total", "demo/fox", "prompt"] == 2 * prompt
    assert told["adreg_tokens_total", "demo/fox", "completion"] == 5 + 11
    assert told["adreg_generations_total", "demo/fox", "stop"] == 1
    assert told["adreg_ttft_seconds_count", "demo/fox"] == 2
    assert told["adreg_itl_seconds_count", "demo/fox"] == 4 + 10
    assert told["adreg_itl_seconds_bucket", "demo/fox", "+Inf"] == 4 + 10
    assert told["adreg_queue_seconds_count",] == 2
    assert told["adreg_adapter_loads_total", "failed"] == 1
    assert told["adreg_adapters", "resident"] == told["adreg_slots_used",] == 1
    assert told["adreg_slots_total",] == 4
    assert told["adreg_step_seconds_count", "decode"] >= 14
    assert told["vllm:num_requests_waiting",] == told["adreg_waiting",] == 0


def test_labels_are_bounded_however_many_adapters_come() -> None:
    metrics = Metrics(labelled=2)
    for number in range(5):
        metrics.learn(digest_of(f"a{number}"), f"a{number}:prod")
        metrics.ended(Generation((), digest_of(f"a{number}"), 1), "stop", 1, 1)
    metrics.learn(digest_of("a0-next"), "a0:2")
    metrics.ended(Generation((), digest_of("a0-next"), 1), "stop", 1, 1)
    metrics.ended(Generation((), None, 1), "stop", 1, 1)
    assert dict(metrics.outcomes) == {("a0", "stop"): 2, ("a1", "stop"): 1, ("other", "stop"): 3, ("base", "stop"): 1}


def test_a_request_is_one_line_without_what_was_said(tokenizer_folder: Path) -> None:
    log = io.StringIO()
    with served(tokenizer_folder, Options(access_log=log)) as (url, _, _), httpx2.Client(base_url=url) as http:
        http.post(CHAT, json=ask(stream=True), headers={"x-request-id": "r-1", "authorization": "Bearer hidden"})
        http.post(CHAT, json=ask(model="nobody"))
        http.get("/nope")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert "secret" not in log.getvalue() and "hidden" not in log.getvalue()
    first = lines[0]
    assert (first["id"], first["status"], first["model"], first["adapter"]) == ("r-1", 200, "demo/fox", digest_of("demo/fox"))
    assert (first["completion_tokens"], first["key"], first["error"]) == (5, None, None)
    assert 0 < first["ttft_ms"] <= first["duration_ms"]
    assert [(line["status"], line["error"]) for line in lines[1:]] == [(404, "model_not_found"), (404, None)]
