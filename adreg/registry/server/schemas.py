"""What the OpenAPI document says of bodies and answers. Bodies are checked by the registry's own strict readers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict

JsonSchema = dict[str, Any]
SHA256 = "^sha256:[0-9a-f]{64}$"
ALIAS = "^[a-z0-9][a-z0-9._-]{0,95}$"
NAMESPACE = "^(_|[a-z0-9][a-z0-9._-]{0,95})$"

DIGEST_PATH = Annotated[str, Path(description="sha256: and 64 hex digits", json_schema_extra={"pattern": SHA256})]
NAMESPACE_PATH = Annotated[str, Path(description="a namespace, or _ for none", json_schema_extra={"pattern": NAMESPACE})]
NAME_PATH = Annotated[str, Path(description="the name without its namespace", json_schema_extra={"pattern": ALIAS})]
NUMBER_PATH = Annotated[int, Path(description="a version's number", ge=1, lt=10**9)]
ALIAS_PATH = Annotated[str, Path(description="an alias", json_schema_extra={"pattern": ALIAS})]
ID_PATH = Annotated[str, Path(description="an id, or at least 12 hex digits of it")]

_ID = {"anyOf": [{"type": "string", "pattern": "^b3:[0-9a-f]{64}$"}, {"type": "null"}]}
_FILE = {
    "type": "object",
    "properties": {"digest": {"type": "string", "pattern": SHA256}, "size": {"type": "integer", "minimum": 0}},
    "required": ["digest", "size"],
    "additionalProperties": False,
}
_PARENT = {
    "type": "object",
    "properties": {
        "digest": {"type": "string", "pattern": SHA256},
        "reference": {"type": "string"},
        "relation": {"enum": ["merged", "continued"]},
    },
    "required": ["digest", "reference", "relation"],
    "additionalProperties": False,
}
MANIFEST: JsonSchema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "number": {"type": "integer", "minimum": 0},
        "digest": {"type": "string", "pattern": SHA256},
        "files": {"type": "object", "additionalProperties": _FILE, "minProperties": 1, "maxProperties": 64},
        "trained_on": {"anyOf": [{"type": "object", "additionalProperties": _ID}, {"type": "null"}]},
        "created_at": {"type": "string"},
        "notes": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 64},
        "parents": {"type": "array", "items": _PARENT, "maxItems": 64},
        "yanked": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "number", "digest", "files", "trained_on", "created_at", "notes", "tags", "parents", "yanked"],
    "additionalProperties": False,
}
POINTER: JsonSchema = {
    "type": "object",
    "properties": {"digest": {"type": "string", "pattern": SHA256}},
    "required": ["digest"],
    "additionalProperties": False,
}
_IF_MATCH = {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": "the digest it means now, quoted"}
_IF_NONE = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}, "description": "* : it is not there"}
OCTETS: JsonSchema = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [{"name": "Content-Range", "in": "header", "schema": {"type": "string"}}],
}


class Problem(BaseModel):
    """What went wrong: its kind, in words, and what can be done."""

    model_config = ConfigDict(extra="allow")
    type: str
    message: str
    hint: str


class ErrorBody(BaseModel):
    """The body of every answer that is not the one asked for."""

    error: Problem


def json_body(schema: JsonSchema, conditional: bool = False) -> JsonSchema:
    """The `openapi_extra` of a route with a JSON body, and perhaps the headers of a compare-and-swap."""
    extra: JsonSchema = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return {**extra, **(CONDITIONAL if conditional else {})}


CONDITIONAL: JsonSchema = {"parameters": [_IF_MATCH, _IF_NONE]}
DESCRIPTIONS = {
    200: "done", 201: "made", 204: "gone", 206: "a range of it", 304: "you have it", 400: "cannot be meant", 401: "no token",
    403: "not allowed", 404: "not there", 408: "too slow", 409: "stands against what is there", 411: "no length",
    412: "moved meanwhile", 413: "too large", 416: "no such range", 422: "refused for its content", 428: "say what you expect",
    429: "too busy", 507: "no space",
}  # fmt: skip
USUAL = (400, 401, 403, 404)


def answers(*statuses: int) -> dict[int | str, JsonSchema]:
    """The `responses` of a route: `statuses`, and those that any route may give."""
    found: dict[int | str, JsonSchema] = {}
    for status in sorted({*statuses, *USUAL, 408, 409, 422, 429, 507}):
        found[status] = {"description": DESCRIPTIONS[status], **({"model": ErrorBody} if status >= 400 else {})}
    return found
