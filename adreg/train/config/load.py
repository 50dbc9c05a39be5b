"""From a recipe, a YAML file and `--set` strings to one checked configuration, with the nearest name for each mistake."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from adreg.errors import UsageError
from adreg.train import recipes
from adreg.train.config.schema import ColumnMap, TrainConfig
from adreg.train.config.yamlfile import read_settings

OTHER_NAMES = {
    "rank": "lora.r", "lora_r": "lora.r", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout",
    "target_modules": "lora.targets", "use_rslora": "lora.rslora", "learning_rate": "train.lr", "batch_size": "train.batch",
    "per_device_train_batch_size": "train.batch", "num_train_epochs": "train.epochs", "warmup_ratio": "train.warmup",
    "lr_scheduler_type": "train.schedule", "max_length": "data.max_tokens", "max_seq_length": "data.max_tokens",
}  # fmt: skip
Layer = tuple[dict[str, Any], dict[str, str]]


def load_config(recipe: str | None = None, file: Path | None = None, sets: Sequence[str] = ()) -> TrainConfig:
    """Recipe, then YAML file, then `a.b=value` strings, each over the one before. Raises `UsageError`.

    A later `lora` section drops the recipe's `expected_trainable`, which was counted for the recipe's own.
    """
    merged: dict[str, Any] = recipes.read_recipe(recipe or "default")
    places: dict[str, str] = {}
    layers = [read_settings(file)] if file else []
    for layer, where in (*layers, *map(_parse_set, sets)):
        if "lora" in layer:
            merged.pop("expected_trainable", None)
        merged, places = _merge(merged, layer), {**places, **where}
    return check_config(merged, places)


def recorded_config(values: dict[str, Any]) -> TrainConfig:
    """The configuration that a run recorded; what is as it comes counts as not set, as it did then."""
    return check_config(check_config(values).model_dump(mode="json", exclude_defaults=True))


def change_config(config: TrainConfig, sets: Sequence[str]) -> TrainConfig:
    """`config` with `a.b=value` strings over it. Raises `UsageError`."""
    merged, places = config.model_dump(mode="json", exclude_unset=True), dict[str, str]()
    for layer, where in map(_parse_set, sets):
        if "lora" in layer:
            merged.pop("expected_trainable", None)
        merged, places = _merge(merged, layer), {**places, **where}
    return check_config(merged, places)


def check_config(values: dict[str, Any], places: Mapping[str, str] | None = None) -> TrainConfig:
    """`values` as a configuration, or a `UsageError` naming the first setting that is wrong.

    `places` says where settings were written, by dotted name.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise _readable(error.errors(include_url=False), places or {}) from None


def map_sets(maps: Sequence[str]) -> list[str]:
    """`role=column` strings, as `--map` takes them, as strings for `load_config`. Raises `UsageError` for other roles."""
    sets = []
    for text in maps:
        role, equals, column = (part.strip() for part in text.partition("="))
        if not equals or not column:
            raise UsageError(f"--map {text}: maps nothing", "write --map answer=answer_zh")
        if role not in ColumnMap.model_fields:
            near = difflib.get_close_matches(role, ColumnMap.model_fields, 1)
            advice = f"did you mean --map {near[0]}={column}?" if near else f"there are {', '.join(ColumnMap.model_fields)}"
            raise UsageError(f"--map {text}: there is no {role!r}", advice)
        sets.append(f"data.map.{role}={json.dumps(column, ensure_ascii=False)}")
    return sets


def setting_names() -> list[str]:
    """Every setting as its dotted name."""
    return [name for name, _ in _fields(TrainConfig)]


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _readable(errors: list[ErrorDetails], places: Mapping[str, str]) -> UsageError:
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    first = (unknown or errors)[0]
    where = ".".join(str(part) for part in first["loc"] if str(part).partition("[")[0] not in ("ColumnMap", "list"))
    if unknown:
        return UsageError(f"{_place(where, places)}there is no setting {where!r}", _nearest(where))
    reasons = [error["msg"] for error in errors if error["loc"][:2] == first["loc"][:2]]
    name = ".".join(str(part) for part in first["loc"][:2])
    told = f"{name} is {first['input']!r}: {'; or '.join(dict.fromkeys(reasons))}"
    return UsageError(_place(name, places) + told, _default(name))


def _place(name: str, places: Mapping[str, str]) -> str:
    """Where the setting `name`, or else the section that it is in, was written."""
    parts = name.split(".")
    found = (places.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
    place = next((place for place in found if place), None)
    return f"{place}: " if place else ""


def _default(name: str) -> str:
    field = dict(_fields(TrainConfig)).get(name)
    if field is None:
        return "a section holds settings: `adreg recipes show smollm2-chat` has an example"
    if field.default is None:
        return f"without {name} adreg chooses one"
    return f"its default is {json.dumps(field.default, default=str)}"


def _nearest(name: str) -> str:
    last = name.rpartition(".")[2]
    if last in OTHER_NAMES:
        return f"did you mean {OTHER_NAMES[last]}?"
    names = [*setting_names(), *(f"data.map.{role}" for role in ColumnMap.model_fields)]
    close = difflib.get_close_matches(name, names, 1) or [full for full in names if full.rpartition(".")[2] == last]
    if not close:
        short = {full.rpartition(".")[2]: full for full in setting_names()}
        close = [short[match] for match in difflib.get_close_matches(last, short, 1)]
    return f"did you mean {close[0]}?" if close else f"the settings are {', '.join(setting_names())}"


def _parse_set(text: str) -> Layer:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{text!r} sets nothing", "write --set lora.r=16")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"{value!r} is no value for {name}: {error}") from error
    for part in reversed(name.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed), {name.strip(): f"--set {text}"}


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merge(under[key], value) for key, value in over.items() if _mergeable(under.get(key), value)}
    return {**under, **over, **both}


def _mergeable(under: object, over: object) -> bool:
    return isinstance(under, dict) and isinstance(over, dict)
