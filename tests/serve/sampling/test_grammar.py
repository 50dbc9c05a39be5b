"""Whatever a model babbles, its text follows the grammar; and no grammar of a client's holds the server up."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from adreg.errors import MissingExtra, UsageError
from adreg.serve.generation import Generation, Grammar, Sampling
from adreg.serve.sampling.grammar import Grammars
from adreg.serve.sampling.sampler import Sampler
from adreg.serve.text.tokenizer import Tokenizer, Tokenizers
from tests.export import spm

VOCABULARY = 49152 + 64
ENDS = {2, 0}
WORD: dict[str, Any] = {"type": "string", "maxLength": 9}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": WORD}, "required": ["a"], "additionalProperties": False},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 4},
    {"enum": ["red", "grün", 3, None, {"x": [1]}]},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"anyOf": [{"type": "boolean"}, {"type": "object", "properties": {"é": {"const": "ü"}}, "required": ["é"]}]},
    {"type": "integer", "minimum": -3, "maximum": 1000},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object", "required": ["v"], "additionalProperties": False,
        "properties": {"v": WORD, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}}}},
    {"type": "string", "format": "date-time"},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
]  # fmt: skip
REGEXES = ["[ab]{3}", "(yes|no), .{0,5}é+", r"\d{1,3}(\.\d+)?", "(a|b)*a(a|b){25}c", r"yes\ or\ no|\-1"]


@pytest.fixture(scope="module")
def byte_level(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizers(tokenizer_folder).base


@pytest.fixture(scope="module")
def grammars(byte_level: Tokenizer) -> Grammars:
    return Grammars(byte_level.definition, VOCABULARY, ENDS)


def babble(grammars: Grammars, grammar: Grammar, seed: int, vocabulary: int = VOCABULARY, most: int = 300) -> list[int] | None:
    """Tokens of a random model under `grammar`, or None where it does not come to an end. It likes SmolLM2's `"`, `]`, `}`."""
    asked = Generation((1,), None, most, Sampling(seed=seed), min_tokens=3)
    sampler, tokens = Sampler(asked, vocabulary, grammars.state(grammar), ENDS), list[int]()
    random = np.random.default_rng(seed)
    while len(tokens) < most:
        logits = random.normal(0, 2, vocabulary).astype(np.float32)
        logits[[18, 77, 109]] += 9
        logits[list(ENDS)] += 25
        token = sampler.choose(logits, tokens).id
        if token in ENDS:
            return tokens
        tokens.append(token)
    return None


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_random_texts_are_json_of_the_schema(schema: dict[str, Any], grammars: Grammars, byte_level: Tokenizer) -> None:
    grammar, ended = Grammar("json_schema", json.dumps(schema)), 0
    for seed in range(20):
        tokens = babble(grammars, grammar, seed)
        if tokens is not None:
            value, ended = json.loads(byte_level.decode(tokens)), ended + 1
            assert jsonschema_rs.is_valid(schema or {"type": "object"}, value)
    assert ended >= 15


@pytest.mark.parametrize("regex", REGEXES)
def test_random_texts_match_the_regular_expression(regex: str, grammars: Grammars, byte_level: Tokenizer) -> None:
    for seed in range(10):
        tokens = babble(grammars, Grammar("regex", regex), seed)
        assert tokens is not None
        assert re.fullmatch(regex, byte_level.decode(tokens))


@spm.needs_vocabularies
def test_a_sentencepiece_tokenizer_follows_grammars_too(tmp_path: Path) -> None:
    tokenizer = Tokenizers(spm.write_tokenizer_files(tmp_path, spm.gemma())).base
    grammars = Grammars(tokenizer.definition, 32016, ENDS)
    for seed in range(10):
        tokens = babble(grammars, Grammar("json_schema", json.dumps(SCHEMAS[1])), seed, 32016)
        assert tokens is not None
        assert jsonschema_rs.is_valid(SCHEMAS[1], json.loads(tokenizer.decode(tokens)))


def test_states_of_one_grammar_go_their_own_ways(grammars: Grammars, byte_level: Tokenizer) -> None:
    one, other = (grammars.state(Grammar("regex", "ab|cd")) for _ in range(2))
    a, b = byte_level.encode("a")[0], byte_level.encode("b")[0]
    one.advance(a)
    assert one.allowed()[b]
    assert not other.allowed()[b]
    one.advance(b)
    assert one.stopped
    assert set(np.flatnonzero(one.allowed())) == ENDS
    assert not other.stopped


def nested(depth: int) -> str:
    return '{"properties":{"a":' * depth + "{}" + "}}" * depth


@pytest.mark.parametrize(
    ("kind", "source", "why"),
    [
        ("regex", "((", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", "(" * 30_000 + "a" + ")" * 30_000, "cannot be used"),
        ("regex", "a" * 100_001, "100000 are allowed"),
        ("json_schema", "{", "is no JSON"),
        ("json_schema", "[]", "no JSON object"),
        ("json_schema", "[" * 50_000, "is no JSON"),
        ("json_schema", nested(60), "nested more than 100 deep"),
        ("json_schema", '{"not": {"type": "string"}}', "not"),
        ("json_schema", '{"$ref": "http://example.com/x"}', "cannot be used"),
        ("json_schema", '{"type": "string", "enum": [1]}', "Unsatisfiable"),
        ("json_schema", '{"$ref": "#"}', "cannot be used"),
        ("json_schema", '{"type": "integer", "minimum": ' + "9" * 4000 + "}", "cannot be used"),
    ],
)
def test_what_cannot_be_a_grammar_is_refused_with_the_reason(kind: Any, source: str, why: str, grammars: Grammars) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        grammars.state(Grammar(kind, source))
    assert len(str(refused.value)) < 300


def exponential(word: str) -> str:
    steps = {f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": {**steps, "d30": {"type": "string"}}})


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a{1,1000}){1,1000}b"),
        ("regex", "(.*a){20}.{300}"),
        ("regex", "|".join(f"{i}ab.*c" for i in range(5000))),
        ("regex", r"(\p{L}{1,50}\w+){1,40}"),
        ("json_schema", exponential("anyOf")),
        ("json_schema", exponential("allOf")),
        ("json_schema", json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(2000)}})),
        ("json_schema", json.dumps({"type": "array", "minItems": 10**6, "items": {"type": "integer"}})),
    ],
    ids=str,
)
def test_explosive_grammars_cost_little(kind: Any, source: str, grammars: Grammars) -> None:
    start = time.process_time()
    with suppress(UsageError):
        babble(grammars, Grammar(kind, source), 0, most=20)
    assert time.process_time() - start < 5


def test_without_llguidance_the_extra_is_named(byte_level: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adreg.serve.sampling.grammar.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        Grammars(byte_level.definition, VOCABULARY, ENDS).state(Grammar("regex", "a"))
    assert (missing.value.package, missing.value.extra) == ("llguidance", "grammar")
