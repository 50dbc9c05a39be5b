"""Whatever schemathesis thinks of, by a document of the bodies that the code itself reads: never a server error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from adreg.serve.api.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.serve.parrot import served

EXAMPLES = int(os.environ.get("ADREG_HTTP_EXAMPLES", "15"))
POSTS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
GETS = ("/v1/models", "/v1/models/{id}", "/health", "/ready", "/version", "/metrics")


def document() -> dict[str, Any]:
    """An OpenAPI document; models are mostly real ones, or every answer would be a 404."""
    _, shared = models_json_schema(
        [(body, "validation") for body in POSTS.values()], ref_template="#/components/schemas/{model}"
    )
    for body in POSTS.values():
        shared["$defs"][body.__name__]["properties"]["model"] = {
            "enum": ["base", "demo/fox", "demo/broken", "demo/foreign", "x"]
        }
    answer = {"default": {"description": "an answer"}}
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Any] = {
        path: {"get": {"parameters": [parameter] if "{" in path else [], "responses": answer}} for path in GETS
    }
    for path, body in POSTS.items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": answer}}
    info = {"title": "adreg", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": shared["$defs"]}}


def test_schemathesis_finds_no_server_error(tokenizer_folder: Path) -> None:
    with served(tokenizer_folder) as (url, engine, _):
        schema = schemathesis.openapi.from_dict(document())
        schema.config.update(base_url=url)
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), "the document is not valid"
            _explore(result.ok())
        assert engine.alive


def _explore(operation: Any) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy())
    def explore(case: Any) -> None:
        if isinstance(case.body, dict):
            # what is asked for is explored, not how long it is
            case.body.update({name: 4 for name in ("max_tokens", "max_completion_tokens") if case.body.get(name, 5)})
        case.call_and_validate(checks=[not_a_server_error])

    with hypothesis.reporting.with_reporter(lambda text: None):
        explore()
