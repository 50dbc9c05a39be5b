"""adapter_config.json, read strictly: the LoRA fields, and by name every feature that adds to plain LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.strictjson import JsonObject, parse_reporting, read_text

Value = TypeVar("Value")
MAX_RANK = 1024
MAX_PATTERN = 200
NEUTRAL: tuple[Any, ...] = (None, False, "", [], {})
INERT = {
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r", "lora_alpha",
    "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "use_rslora", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying",
    "auto_mapping", "loftq_config", "runtime_config", "eva_config", "init_lora_weights", "bias", "corda_config",
    "lora_ga_config",
}  # fmt: skip
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
KNOWN_LIBRARIES = (None, "transformers", "peft", "diffusers")


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of a LoRA configuration that decide its arithmetic. `features` names what is not plain LoRA."""

    path: Path
    raw: JsonObject
    rank: int
    alpha: float
    rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    fan_in_fan_out: bool
    features: tuple[str, ...]

    @property
    def base_name(self) -> str | None:
        """The base's name or path as the trainer wrote it; a claim, not an identity."""
        name = self.raw.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @property
    def target_modules(self) -> list[str]:
        """The targets as listed; empty where they are an expression or absent."""
        targets = self.raw.get("target_modules")
        return [str(target) for target in targets] if isinstance(targets, list) else []

    def rank_of(self, module: str) -> int:
        return int(_lookup(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """alpha/r, or alpha/sqrt(r) for rsLoRA, with both patterns applied. Source: peft tuners/lora/layer.py."""
        alpha, rank = _lookup(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


@dataclass(frozen=True)
class ConfigSurvey:
    """An adapter_config.json as it is: `raw` whatever it says, `config` if it is a sound LoRA one, and what is wrong."""

    raw: JsonObject
    config: AdapterConfig | None
    problems: tuple[FormatError, ...]


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read and check `path`. Raises `FormatError` with a K- rule, or `UnsupportedError` for another adapter type."""
    survey = survey_adapter_config(path)
    if survey.problems:
        raise survey.problems[0]
    if survey.config is None:
        raise UnsupportedError(f"adapter type {survey.raw.get('peft_type')!r} in {path}", "adreg takes LORA adapters")
    return survey.config


def survey_adapter_config(path: Path) -> ConfigSurvey:
    """Read `path` and list everything in it that breaks a K- rule; the values of LORA configurations only."""
    problems: list[FormatError] = []
    try:
        raw = parse_reporting(read_text(path, "K-CFG-1"), path, "K-CFG-1", problems.append)
    except FormatError as error:
        return ConfigSurvey({}, None, (error,))
    if raw.get("peft_type") != "LORA":
        return ConfigSurvey(raw, None, tuple(problems))
    config = _config(path, raw, problems)
    return ConfigSurvey(raw, None if problems else config, tuple(problems))


def _config(path: Path, raw: JsonObject, problems: list[FormatError]) -> AdapterConfig:
    """The configuration with 0 in the place of every broken value, each of which is added to `problems`."""

    def checked(check: Callable[[Path, str, object], Value], field: str, value: object, broken: Value) -> Value:
        try:
            return check(path, field, value)
        except FormatError as error:
            problems.append(error)
            return broken

    def patterned(check: Callable[[Path, str, object], Value], field: str, broken: Value) -> dict[str, Value]:
        pattern: JsonObject = checked(_pattern, field, raw.get(field), {})
        for key in pattern:
            checked(_expression, f"{field} key", key, "")
        return {key: checked(check, f"{field}[{key}]", value, broken) for key, value in pattern.items()}

    return AdapterConfig(
        path=path,
        raw=raw,
        rank=checked(_rank, "r", raw.get("r", 8), 0),
        alpha=checked(_alpha, "lora_alpha", raw.get("lora_alpha", 8), 0.0),
        rslora=checked(_flag, "use_rslora", raw.get("use_rslora", False), False),
        rank_pattern=patterned(_rank, "rank_pattern", 0),
        alpha_pattern=patterned(_alpha, "alpha_pattern", 0.0),
        fan_in_fan_out=checked(_flag, "fan_in_fan_out", raw.get("fan_in_fan_out", False), False),
        features=tuple(_features(raw)),
    )


def _features(raw: JsonObject) -> list[str]:
    """Fields that change the arithmetic beyond plain LoRA, as `field=value`; unknown ones count."""
    found = [f"{key}={raw[key]}" for key in sorted(raw) if key not in INERT and raw[key] not in NEUTRAL]
    if raw.get("bias", "none") != "none":
        found.append(f"bias={raw['bias']}")
    if raw.get("init_lora_weights", True) not in PLAIN_INITS:
        found.append(f"init_lora_weights={raw['init_lora_weights']}")
    mapping = raw.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    if library not in KNOWN_LIBRARIES and str(library).partition(".")[0] not in KNOWN_LIBRARIES:
        found.append(f"auto_mapping.parent_library={library}")
    return found


def _lookup(pattern: dict[str, Any], module: str, default: float) -> float:
    """The value of the first key that is the end of `module` as a whole dotted part. Source: peft get_pattern_key."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return default


def _pattern(path: Path, field: str, value: object) -> JsonObject:
    value = value or {}
    if not isinstance(value, dict):
        raise FormatError(path, f"{field} is not an object", "K-CFG-1")
    return value


def _expression(path: Path, field: str, expression: object) -> str:
    """Refuse expressions that could run for ever: long ones, repeated groups, more than three repetitions."""
    text = str(expression)
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > MAX_PATTERN or re.search(r"\)[*+{]", text) or repeats > 3:
        raise FormatError(path, f"{field} {text[:60]!r} could match for ever; write plain module names", "K-CFG-5")
    try:
        re.compile(text)
    except re.error as error:
        raise FormatError(path, f"{field} {text!r} is no expression: {error}", "K-CFG-5") from error
    return text


def _rank(path: Path, field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise FormatError(path, f"{field} is {value!r}; a rank is a whole number from 1 to {MAX_RANK}", "K-CFG-3")
    return value


def _alpha(path: Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise FormatError(path, f"{field} is {value!r}; alpha is a number above 0", "K-CFG-4")
    return float(value)


def _flag(path: Path, field: str, value: object) -> bool:
    if value not in (True, False, None):
        raise FormatError(path, f"{field} is {value!r}; it must be true or false", "K-CFG-1")
    return bool(value)
