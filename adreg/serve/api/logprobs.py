"""Log-probabilities in the two shapes that OpenAI's routes give them. Knows token ids and a tokenizer, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from adreg.serve.generation import Logprob, Token

JsonObject = dict[str, Any]
TokenBytes = Callable[[int], bytes]
Pair = tuple[int, Logprob | None]
"""A token's id, and its log-probability; None for the first of a prompt, which nothing precedes."""

# JSON has no minus infinity; vLLM's number for a token that cannot come
IMPOSSIBLE = -9999.0


def pairs(tokens: Iterable[Token]) -> list[Pair]:
    return [(token.id, token.logprob) for token in tokens]


def chat_logprobs(found: Iterable[Pair], token_bytes: TokenBytes) -> JsonObject:
    """{"content": [{"token", "logprob", "bytes", "top_logprobs"}]}."""

    def entry(id_: int, value: float) -> JsonObject:
        raw = token_bytes(id_)
        return {"token": _text(raw), "logprob": _number(value), "bytes": list(raw)}

    content = [
        {**entry(id_, logprob.value), "top_logprobs": [entry(*each) for each in logprob.top]}
        for id_, logprob in found
        if logprob is not None
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """{"tokens", "token_logprobs", "top_logprobs", "text_offset"} of one choice, piece by piece.

    Offsets count characters of the tokens' own texts, as vLLM's do; the token itself is always among the top ones.
    """

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._offset = 0

    def more(self, found: Iterable[Pair]) -> JsonObject:
        """Those of the next tokens."""
        body: JsonObject = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for id_, logprob in found:
            text = _text(self._token_bytes(id_))
            body["tokens"].append(text)
            body["token_logprobs"].append(None if logprob is None else _number(logprob.value))
            body["top_logprobs"].append(None if logprob is None else self._top(text, logprob))
            body["text_offset"].append(self._offset)
            self._offset += len(text)
        return body

    def _top(self, text: str, logprob: Logprob) -> JsonObject:
        """By text; where two tokens have the same one, the likelier is told."""
        top: JsonObject = {}
        for id_, value in logprob.top:
            top.setdefault(_text(self._token_bytes(id_)), _number(value))
        top.setdefault(text, _number(logprob.value))
        return top


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _number(value: float) -> float:
    return max(value, IMPOSSIBLE)
