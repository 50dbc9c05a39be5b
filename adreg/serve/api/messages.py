"""A conversation as clients send it and as chat templates know it. Knows shapes, no tokenizer."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from adreg.serve.api.bodies import Body


def _joined_text(content: Any) -> Any:
    """A list of text parts as one text, a part a line."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a content part of type {kind!r:.100} is not supported, only text")
    return "\n".join(part["text"] for part in content)


class Function(Body):
    """A tool that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Call(Body):
    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant has made before."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Call

    @field_validator("function")
    @classmethod
    def _check_arguments(cls, call: Call) -> Call:
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError("arguments must be a JSON object, as text")
        return call

    def for_template(self) -> dict[str, Any]:
        """With the arguments as an object, which is how templates write them."""
        arguments = json.loads(self.function.arguments or "{}")
        return {"id": self.id, "type": self.type, "function": {"name": self.function.name, "arguments": arguments}}


class Message(Body):
    """One message of a conversation; only an assistant who calls tools may have said nothing."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    content: Annotated[str | None, BeforeValidator(_joined_text)] = Field(None, validate_default=True)

    @field_validator("content")
    @classmethod
    def _check_content(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing", "Field required")
        return content

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it; they say `system` for what OpenAI now calls `developer`."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.content or ""}
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message
