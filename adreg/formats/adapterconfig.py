"""adapter_config.json, read strictly: the LoRA fields, and by name every feature that adds to plain LoRA."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.strictjson import JsonObject, read_object

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


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read and check `path`. Raises `FormatError` with a K- rule, or `UnsupportedError` for another adapter type."""
    raw = read_object(path, "K-CFG-1")
    if raw.get("peft_type") != "LORA":
        raise UnsupportedError(f"adapter type {raw.get('peft_type')!r} in {path}", "adreg takes LORA adapters")
    return AdapterConfig(
        path=path,
        raw=raw,
        rank=_rank(path, "r", raw.get("r", 8)),
        alpha=_alpha(path, "lora_alpha", raw.get("lora_alpha", 8)),
        rslora=_flag(path, raw, "use_rslora"),
        rank_pattern={key: _rank(path, f"rank_pattern[{key}]", value) for key, value in _pattern(path, raw, "rank_pattern")},
        alpha_pattern={
            key: _alpha(path, f"alpha_pattern[{key}]", value) for key, value in _pattern(path, raw, "alpha_pattern")
        },
        fan_in_fan_out=_flag(path, raw, "fan_in_fan_out"),
        features=tuple(_features(raw)),
    )


def _features(raw: JsonObject) -> list[str]:
    """Fields that change the arithmetic beyond plain LoRA, as `field=value`; unknown ones count."""
    found = [f"{key}={raw[key]}" for key in sorted(raw) if key not in INERT and raw[key] not in NEUTRAL]
    if raw.get("bias", "none") != "none":
        found.append(f"bias={raw['bias']}")
    if raw.get("init_lora_weights", True) not in PLAIN_INITS:
        found.append(f"init_lora_weights={raw['init_lora_weights']}")
    library = (raw.get("auto_mapping") or {}).get("parent_library")
    if library not in KNOWN_LIBRARIES and str(library).partition(".")[0] not in KNOWN_LIBRARIES:
        found.append(f"auto_mapping.parent_library={library}")
    return found


def _lookup(pattern: dict[str, Any], module: str, default: float) -> float:
    """The value of the first key that is the end of `module` as a whole dotted part. Source: peft get_pattern_key."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return default


def _pattern(path: Path, raw: JsonObject, field: str) -> list[tuple[str, Any]]:
    pattern = raw.get(field) or {}
    if not isinstance(pattern, dict):
        raise FormatError(path, f"{field} is not an object", "K-CFG-1")
    for key in pattern:
        _check_expression(path, field, key)
    return list(pattern.items())


def _check_expression(path: Path, field: str, expression: str) -> None:
    """Refuse expressions that could run for ever: long ones, repeated groups, more than three repetitions."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", expression))
    if len(expression) > MAX_PATTERN or re.search(r"\)[*+{]", expression) or repeats > 3:
        raise FormatError(path, f"{field} key {expression[:60]!r} could match for ever; write plain module names", "K-CFG-5")
    try:
        re.compile(expression)
    except re.error as error:
        raise FormatError(path, f"{field} key {expression!r} is no expression: {error}", "K-CFG-5") from error


def _rank(path: Path, field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise FormatError(path, f"{field} is {value!r}; a rank is a whole number from 1 to {MAX_RANK}", "K-CFG-3")
    return value


def _alpha(path: Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise FormatError(path, f"{field} is {value!r}; alpha is a number above 0", "K-CFG-4")
    return float(value)


def _flag(path: Path, raw: JsonObject, field: str) -> bool:
    value = raw.get(field, False)
    if value not in (True, False, None):
        raise FormatError(path, f"{field} is {value!r}; it must be true or false", "K-CFG-1")
    return bool(value)
