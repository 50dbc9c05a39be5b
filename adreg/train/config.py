"""The training configuration: one strict schema, from YAML, recipes and `--set`. Knows values, not models or data."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from adreg.errors import UsageError
from adreg.train import recipes

OTHER_NAMES = {
    "rank": "lora.r", "lora_r": "lora.r", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout",
    "target_modules": "lora.targets", "use_rslora": "lora.rslora", "learning_rate": "train.lr", "batch_size": "train.batch",
    "per_device_train_batch_size": "train.batch", "num_train_epochs": "train.epochs", "warmup_ratio": "train.warmup",
    "lr_scheduler_type": "train.schedule", "max_length": "data.max_tokens", "max_seq_length": "data.max_tokens",
}  # fmt: skip
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Files = Annotated[list[Path], BeforeValidator(lambda value: [value] if isinstance(value, str | Path) else value)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraSettings(_Strict):
    """The adapter. `alpha` defaults to 2r. `targets`: all-linear, auto (PEFT's choice for the architecture), or names."""

    r: Annotated[int, Field(strict=True, ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0)] | None = None
    dropout: Share = 0.0
    targets: Literal["all-linear", "auto"] | list[str] = "all-linear"
    rslora: bool = False

    @property
    def chosen_alpha(self) -> float:
        return 2.0 * self.r if self.alpha is None else self.alpha


class ColumnMap(_Strict):
    """Which column holds what; a column may be a path such as `answers.text[0]`."""

    messages: str | None = None
    system: str | None = None
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None
    text: str | None = None


class DataSettings(_Strict):
    """The rows. `eval`: held-out files, or the share of the training rows to hold out. `system`: for rows without one."""

    train: Files = []
    eval: Share | Files = 0.05
    map: Literal["auto"] | ColumnMap = "auto"
    system: str | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=8)] = 1024
    too_long: Literal["drop", "error"] = "drop"
    train_on: Literal["completion", "all"] = "completion"


class LoopSettings(_Strict):
    """The loop. `batch`: rows a step. `micro_tokens`: tokens run at once. `warmup`: share of the steps."""

    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Count | None = None
    lr: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    batch: Count = 16
    micro_tokens: Annotated[int, Field(strict=True, ge=8)] = 1024
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on `rows` rows."""
        return self.max_steps or max(math.ceil(math.ceil(rows / self.batch) * self.epochs), 1)


class TrainConfig(_Strict):
    """Everything that decides a run apart from the base. `expected_trainable` is asserted when it runs."""

    description: str = ""
    lora: LoraSettings = LoraSettings()
    data: DataSettings = DataSettings()
    train: LoopSettings = LoopSettings()
    expected_trainable: int | None = None


def load_config(recipe: str | None = None, file: Path | None = None, sets: Sequence[str] = ()) -> TrainConfig:
    """Recipe, then YAML file, then `a.b=value` strings, each over the one before. Raises `UsageError`.

    A later `lora` section drops the recipe's `expected_trainable`, which was counted for the recipe's own.
    """
    merged: dict[str, Any] = recipes.read_recipe(recipe or "default")
    layers = [_read_yaml(file)] if file else []
    for layer in (*layers, *map(_parse_set, sets)):
        if "lora" in layer:
            merged.pop("expected_trainable", None)
        merged = _merge(merged, layer)
    return check_config(merged)


def check_config(values: dict[str, Any]) -> TrainConfig:
    """`values` as a configuration, or a `UsageError` naming the first setting that is wrong."""
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise _readable(error.errors(include_url=False)) from None


def setting_names() -> list[str]:
    """Every setting as its dotted name."""
    return list(_names(TrainConfig))


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _readable(errors: list[ErrorDetails]) -> UsageError:
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    first = (unknown or errors)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("ColumnMap", "constrained-float", "constrained-int"))
    if unknown:
        return UsageError(f"there is no setting {where!r}", _nearest(where))
    reasons = [error["msg"] for error in errors if error["loc"][:2] == first["loc"][:2]]
    place = ".".join(str(part) for part in first["loc"][:2])
    return UsageError(f"{place} is {first['input']!r}: {'; or '.join(dict.fromkeys(reasons))}")


def _nearest(name: str) -> str:
    last = name.rpartition(".")[2]
    if last in OTHER_NAMES:
        return f"did you mean {OTHER_NAMES[last]}?"
    names = setting_names()
    close = difflib.get_close_matches(name, names, 1) or [full for full in names if full.rpartition(".")[2] == last]
    if not close:
        short = {full.rpartition(".")[2]: full for full in names}
        close = [short[match] for match in difflib.get_close_matches(last, short, 1)]
    return f"did you mean {close[0]}?" if close else f"the settings are {', '.join(names)}"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the configuration {file}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(
            f"{file} holds no settings", f"write sections such as lora, data and train: {', '.join(recipes.names())}"
        )
    return values


def _parse_set(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{text!r} sets nothing", "write --set lora.r=16")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"{value!r} is no value for {name}: {error}") from error
    for part in reversed(name.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merge(under[key], value) for key, value in over.items() if _mergeable(under.get(key), value)}
    return {**under, **over, **both}


def _mergeable(under: object, over: object) -> bool:
    return isinstance(under, dict) and isinstance(over, dict)
