"""Which tokens may follow, so that the text matches a JSON schema or a regular expression: llguidance, asked safely.

A grammar comes from a client and is not trusted: its source, the work to compile it and the work of each token have
limits. https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adreg.errors import AdregError, MissingExtra, UsageError
from adreg.serve.generation import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

SOURCE_LIMIT, DEPTH_LIMIT = 100_000, 100
KEPT = 32
WHITE_SPACE = r"[ \n\t]{0,40}"
"""What may stand between the parts of a JSON text: room for indented lines, but none to babble in."""


class GrammarState:
    """Where the text of one sequence is in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    @property
    def stopped(self) -> bool:
        """Whether the text is complete and cannot go on: only an end may follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens (vocabulary,) may follow; an end may where the text is complete. Raises `AdregError` when finding
        out takes too much work."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise AdregError(f"the grammar cannot go on: {_reason(self._matcher.get_error())}")
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def advance(self, token: int) -> None:
        """Take `token`, one of those allowed, as the next of the text."""
        if not self._matcher.consume_token(token):
            raise AdregError(f"the grammar refuses token {token}: {_reason(self._matcher.get_error())}")


class Grammars:
    """The grammars of one tokenizer, compiled, the most recent ones kept. Any thread may ask."""

    def __init__(self, definition: Callable[[], str], vocabulary: int, ends: Collection[int]) -> None:
        """`definition` gives the tokenizer.json, when the first grammar comes; `vocabulary` is how many logits there are,
        `ends` the ids that may follow a complete text."""
        self._definition, self._vocabulary, self._ends = definition, vocabulary, sorted(ends)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def state(self, grammar: Grammar) -> GrammarState:
        """A new state at the start of `grammar`. Slow where it is not compiled yet: not for the engine's thread.

        Raises `UsageError` for what is no grammar, is not supported or is too large, `MissingExtra` without llguidance.
        """
        with self._lock:
            matcher = self._compiled.get(grammar)
        if matcher is None:
            matcher = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return GrammarState(matcher.deep_copy(), self._vocabulary)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if find_spec("llguidance") is None:
            raise MissingExtra("llguidance", "grammar")
        from llguidance import LLMatcher

        if len(grammar.source) > SOURCE_LIMIT:
            raise UsageError(f"the {_name(grammar)} has {len(grammar.source)} characters; {SOURCE_LIMIT} are allowed")
        source = (
            _json_grammar(grammar.source) if grammar.kind == "json_schema" else LLMatcher.grammar_from_regex(grammar.source)
        )
        matcher = LLMatcher(self._vocabulary_tree(), source, log_level=0, limits=_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise UsageError(f"the {_name(grammar)} cannot be used: {_reason(matcher.get_error())}")
        return matcher

    def _vocabulary_tree(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(self._definition(), n_vocab=self._vocabulary, eos_token=self._ends)
            return self._tokenizer


def _json_grammar(source: str) -> str:
    from llguidance import LLMatcher

    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the JSON schema is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError("the JSON schema is no JSON object")
    if _depth(schema) > DEPTH_LIMIT:
        raise UsageError(f"the JSON schema is nested more than {DEPTH_LIMIT} deep")
    text = json.dumps(schema or {"type": "object"})
    try:
        return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITE_SPACE})
    except ValueError as error:
        raise UsageError(f"the JSON schema cannot be used: {_reason(str(error))}") from error


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [value for values in inner for value in values]
    return depth


def _limits() -> LLParserLimits:
    """A step may take some 20 ms, a grammar some 100 MB."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=50_000, max_grammar_size=100_000, verbose_errors=False)


def _name(grammar: Grammar) -> str:
    return "JSON schema" if grammar.kind == "json_schema" else "regular expression"


def _reason(error: str) -> str:
    return " ".join(error.split())[:200]
