"""A client of llama.cpp's own server, started for one GGUF file and always stopped. Knows HTTP on the loopback only."""

from __future__ import annotations

import http.client
import json
import math
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from adreg.errors import VerificationFailed
from adreg.export.extras import need
from adreg.formats.text.chat_template import Message

CHILD = Path(__file__).with_name("llamacpp_child.py")
LARGE_BYTES = 1 << 30
START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 300, 300, 10


@dataclass(frozen=True)
class LlamaCpp:
    """A running llama.cpp with one model."""

    host: str
    port: int

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """The token ids of `text`: with or without the tokens that begin and end a text, and with special tokens
        in it read as such or as plain characters."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def next_tokens(self, ids: Sequence[int], count: int, forced: int) -> dict[int, float]:
        """The `count` likeliest tokens after `ids` and their log probabilities over the whole vocabulary.

        `forced` is the token that is then generated: the probabilities are those before sampling, but the server
        leaves them out where it happens to generate an end token or half a character.
        """
        likely = self._next(ids, count, forced)["top_logprobs"]
        return {int(token["id"]): math.nan if token["logprob"] is None else float(token["logprob"]) for token in likely}

    def log_probability(self, ids: Sequence[int], token: int) -> float:
        """Of `token` after `ids`."""
        return float(self._next(ids, 1, token)["logprob"])

    def _next(self, ids: Sequence[int], count: int, forced: int) -> Any:
        body = {"prompt": list(ids), "n_predict": 1, "n_probs": count, "cache_prompt": True, "post_sampling_probs": False}
        found = self._post("/completion", {**body, "temperature": 0, "logit_bias": [[forced, 1e6]]})
        return found["completion_probabilities"][0]

    def render(self, messages: Sequence[Message]) -> str | None:
        """The prompt that the file's chat template makes of `messages`, or None where it refuses them."""
        try:
            return str(self._post("/apply-template", {"messages": [dict(message) for message in messages]})["prompt"])
        except VerificationFailed:
            return None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_SECONDS)
        with closing(connection):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        if response.status != http.client.OK:
            raise VerificationFailed(f"llama.cpp answers {response.status} to {path}: {text[:300].decode(errors='replace')}")
        return json.loads(text)


@contextmanager
def llamacpp(model: Path, context: int, adapters: Sequence[Path] = ()) -> Iterator[LlamaCpp]:
    """Run `model` with GGUF `adapters` and `context` tokens of room, in a process of its own, without a word on the terminal.

    Raises `MissingExtra` without xllamacpp, `VerificationFailed` with llama.cpp's words when it does not take the file.
    """
    need("llamacpp", "xllamacpp")
    # -P keeps the script's folder, and so this package's module names, off the child's import path
    command = [sys.executable, "-P", str(CHILD), str(model.absolute()), str(context), str(_threads(model))]
    command += [str(adapter.absolute()) for adapter in adapters]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            address = urlsplit(_address(child))
            if address.hostname is None or address.port is None:
                raise VerificationFailed(f"llama.cpp does not load {model}: {_complaint(log)}")
            yield LlamaCpp(address.hostname, address.port)
        finally:
            _stop(child)


def _threads(model: Path) -> int:
    """llama.cpp's threads wait for each other without sleeping, which on busy cores costs small models more than it gives."""
    return 1 if model.stat().st_size < LARGE_BYTES else 2


def _address(child: subprocess.Popen[bytes]) -> str:
    """The line that the child prints when its server answers; empty when it ended or took too long."""
    if child.stdout is None or not select.select([child.stdout], [], [], START_SECONDS)[0]:
        return ""
    return child.stdout.readline().decode().strip()


def _stop(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _complaint(log: IO[bytes]) -> str:
    """llama.cpp's first error (marked E after the time), or else the last line of the log."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line.partition(" E ")[2] for line in lines if " E " in line), lines[-1]).strip()
