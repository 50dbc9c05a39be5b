"""The bodies that clients may send, and what of OpenAI's dialect is accepted only where it asks for nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from adreg.serve.api.errors import ApiError

MAX_STOP_LENGTH = 500

# parameters that only label a request
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
# parameters that adreg does not have, and the values that mean "without it"; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
    "logprobs": (False,), "top_logprobs": (0,), "echo": (False,), "suffix": ("",), "store": (False,),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "parallel_tool_calls": (True, False), "modalities": (["text"],), "audio": (),
    "prediction": (), "service_tier": ("auto", "default"), "reasoning_effort": ("none",), "verbosity": ("medium",),
    "web_search_options": (), "include_obfuscation": (False,),
    "refusal": (), "tool_calls": ([],), "annotations": ([],), "name": (), "tool_call_id": (),
}  # fmt: skip


class Body(BaseModel):
    """A body, or a part of one, whose unknown fields are looked up in `NEUTRAL` and refused otherwise."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def foreign(self) -> dict[str, Any]:
        """The fields that mean something here, and are not supported."""
        return {name: value for name, value in (self.model_extra or {}).items() if not _asks_nothing(name, value)}


def _asks_nothing(name: str, value: Any) -> bool:
    if name in LABELS:
        return True
    if value is None:
        return name in NEUTRAL
    return any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL.get(name, ()))


def _joined_text(content: Any) -> Any:
    """A list of text parts as one text, a part a line."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a content part of type {kind!r} is not supported, only text")
    return "\n".join(part["text"] for part in content)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined_text)]

    def for_template(self) -> dict[str, str]:
        """As chat templates know it; they say `system` for what OpenAI now calls `developer`."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(Body):
    include_usage: bool | None = None


class Asking(Body):
    """What both kinds of request share."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = Field(None, max_length=4)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: list[str] | None) -> list[str] | None:
        if any(not 0 < len(text) <= MAX_STOP_LENGTH for text in stop or ()):
            raise ValueError(f"a stop string has 1 to {MAX_STOP_LENGTH} characters")
        return stop

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Asking):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class CompletionRequest(Asking):
    prompt: Annotated[list[str] | list[int] | list[list[int]], BeforeValidator(_as_list)] = Field(min_length=1)


Asked = TypeVar("Asked", bound=Asking)


def parse(kind: type[Asked], text: bytes) -> Asked:
    """The body in `text`. Raises `ApiError` 400 that names the first parameter at fault."""
    try:
        asked = kind.model_validate_json(text)
    except ValidationError as error:
        raise _as_api_error(error) from error
    _refuse_foreign(asked, "")
    if asked.stream_options and not asked.stream:
        raise ApiError(400, "stream_options is only allowed with stream=true", "stream_options")
    return asked


def _refuse_foreign(body: Body, where: str) -> None:
    for name, value in body.foreign().items():
        known = name in NEUTRAL
        message = f"the value {value!r:.100} of {where}{name} is not supported" if known else f"unknown parameter {where}{name}"
        raise ApiError(400, message, where + name, "unsupported_parameter" if known else "unknown_parameter")
    for name in type(body).model_fields:
        value = getattr(body, name)
        if isinstance(value, Body):
            _refuse_foreign(value, f"{where}{name}.")
        for index, part in enumerate(value if isinstance(value, list) else ()):
            if isinstance(part, Body):
                _refuse_foreign(part, f"{where}{name}[{index}].")


def _as_api_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    param = _path(first["loc"])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param or 'the body'}: {first['msg'].removeprefix('Value error, ')}", param, code)


def _path(where: tuple[int | str, ...]) -> str | None:
    """`("messages", 0, "role")` as `messages[0].role`; the names of union branches are left out."""
    steps = [step for step in where if isinstance(step, int) or (step.isidentifier() and step not in ("str", "int"))]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".") or None
