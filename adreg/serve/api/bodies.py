"""How bodies are read: strictly, each unknown field refused by name unless its value asks for nothing."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from adreg.serve.api.errors import ApiError

# parameters that only label a request
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "request_id")
# parameters that adreg does not have, and the values that mean "without it"; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": ("",), "store": (False,), "functions": ([],), "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False), "modalities": (["text"],), "audio": (), "prediction": (),
    "service_tier": ("auto", "default"), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (),
    "include_obfuscation": (False,), "refusal": (), "annotations": ([],), "name": (),
    "use_beam_search": (False,), "length_penalty": (1,), "include_stop_str_in_output": (False,), "priority": (0,),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,), "truncate_prompt_tokens": (),
    "prompt_logprobs": (), "add_generation_prompt": (True,), "continue_final_message": (False,),
    "return_token_strs": (False,), "return_tokens_as_token_ids": (False,),
}  # fmt: skip


class Body(BaseModel):
    """A body, or a part of one, whose unknown fields are looked up in `NEUTRAL` and refused otherwise."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def foreign(self) -> dict[str, Any]:
        """The fields that mean something here, and are not supported."""
        return {name: value for name, value in (self.model_extra or {}).items() if not _asks_nothing(name, value)}


Asked = TypeVar("Asked", bound=Body)


def parse(kind: type[Asked], text: bytes) -> Asked:
    """The body in `text`. Raises `ApiError` 400 that names the first parameter at fault."""
    try:
        asked = kind.model_validate_json(text)
    except ValidationError as error:
        raise _as_api_error(error) from error
    _refuse_foreign(asked, "")
    return asked


def _asks_nothing(name: str, value: Any) -> bool:
    if name in LABELS:
        return True
    if value is None:
        return name in NEUTRAL
    return any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL.get(name, ()))


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
