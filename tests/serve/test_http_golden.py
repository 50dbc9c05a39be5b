"""Every form of answer, byte for byte as on record; ADREG_GOLDEN=write records them anew. Ids and times are evened out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serve.parrot import served

GOLDEN = Path(__file__).parent / "golden"
HELLO = [{"role": "user", "content": "hello"}]
CHAT: dict[str, Any] = {"model": "base", "messages": HELLO, "temperature": 0, "max_tokens": 12}
TEXT: dict[str, Any] = {"model": "demo/fox", "prompt": "the sea", "temperature": 0, "max_tokens": 3}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
FORMS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "chat-logprobs": {**CHAT, "logprobs": True, "top_logprobs": 2},
    "chat-stream": {**CHAT, "stream": True},
    "chat-stream-usage": {**CHAT, **USAGE},
    "chat-stream-end": {**CHAT, "model": "demo/owl", "max_tokens": 40, "stream": True},
    "chat-stream-stop": {**CHAT, "stop": "lamp, 王", "stream": True},
    "chat-stream-logprobs": {**CHAT, "logprobs": True, "top_logprobs": 1, "max_tokens": 2, "stream": True},
    "chat-stream-continuous": {
        **CHAT, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}
    },
    "chat-stream-refused": {**CHAT, "model": "demo/broken", "stream": True},
    "text": TEXT,
    "text-logprobs-echo": {**TEXT, "logprobs": 2, "echo": True},
    "text-score": {**TEXT, "logprobs": 1, "echo": True, "max_tokens": 0},
    "text-stream": {**TEXT, "stream": True},
    "text-stream-usage": {**TEXT, **USAGE},
    "text-stream-echo": {**TEXT, "echo": True, "stream": True},
    "text-stream-logprobs": {**TEXT, "logprobs": 1, "stream": True},
    "text-stream-logprobs-echo": {**TEXT, "logprobs": 1, "echo": True, "stream": True},
    "text-stream-score": {**TEXT, "logprobs": 0, "echo": True, "max_tokens": 0, **USAGE},
}  # fmt: skip


@pytest.fixture(scope="module")
def http(tokenizer_folder: Path) -> Iterator[httpx2.Client]:
    with served(tokenizer_folder) as (url, _, _), httpx2.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_has_the_bytes_on_record(http: httpx2.Client, form: str) -> None:
    response = http.post("/v1/chat/completions" if form.startswith("chat") else "/v1/completions", json=FORMS[form])
    said = f"{response.status_code} {response.headers['content-type']}\n\n{evened(response.text)}"
    path = GOLDEN / f"{form}.txt"
    if os.environ.get("ADREG_GOLDEN") == "write":
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")


def test_choices_of_one_stream_are_interleaved_and_each_is_whole(http: httpx2.Client) -> None:
    """Token by token: which choice comes first in a step is the engine's affair."""
    text = evened(http.post("/v1/completions", json={**TEXT, "prompt": ["a", "b"], "n": 2, "stream": True}).text)
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    single = evened(http.post("/v1/completions", json={**TEXT, "stream": True}).text).split("\n\n")[:-2]
    for index in range(4):
        own = [event.replace(f'"index":{index}', '"index":0') for event in events if f'"index":{index}' in event]
        assert own == single
    order = [int(found) for found in re.findall(r'"index":(\d)', text)]
    assert order != sorted(order)


def evened(text: str) -> str:
    """`text` with the same id and time always, and numbers to four digits."""
    text = re.sub(r'"(chatcmpl|cmpl)-[0-9a-f]{32}"', r'"\1-ID"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    return re.sub(r"-?\d+\.\d{5,}(e-?\d+)?", lambda found: f"{float(found[0]):.4f}", text)
