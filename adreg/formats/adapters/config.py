"""adapter_config.json, read strictly: the LoRA fields, and by name every feature that adds to plain LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.adapters import values as check
from adreg.formats.adapters.fields import is_neutral
from adreg.formats.adapters.namepatterns import NamePattern, check_expressions
from adreg.formats.strictjson import JsonObject, parse_reporting, read_text

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)
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

    def rank_of(self, module: str) -> int:
        """The rank of `module`, with the rank pattern applied."""
        return int(self._ranks.value(module, self.rank))

    def scaling_of(self, module: str) -> float:
        """alpha/r, or alpha/sqrt(r) for rsLoRA, with both patterns applied. Source: peft tuners/lora/layer.py."""
        alpha, rank = self._alphas.value(module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    @cached_property
    def _ranks(self) -> NamePattern:
        return NamePattern(self.rank_pattern)

    @cached_property
    def _alphas(self) -> NamePattern:
        return NamePattern(self.alpha_pattern)


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
        kind = str(survey.raw.get("peft_type"))[:60]
        raise UnsupportedError(f"adapter type {kind!r}", "adreg merges, serves and compares LORA; PEFT applies the others")
    return survey.config


def survey_adapter_config(path: Path) -> ConfigSurvey:
    """Read `path` and list everything in it that breaks a K- rule; the values of LORA configurations only."""
    problems: list[FormatError] = []
    try:
        raw = parse_reporting(read_text(path, "K-CFG-1"), path, "K-CFG-1", problems.append)
    except FormatError as error:
        return ConfigSurvey({}, None, (error,))
    _check_values(path, raw, check.NAMES, problems)
    if raw.get("peft_type") != "LORA":
        kind = str(raw.get("peft_type"))
        _check_values(path, raw, check.FAMILY_SIZES.get(kind, {}), problems)
        if kind in check.PATTERNED:
            _pattern(path, raw, "rank_pattern", check.rank, problems)
            _pattern(path, raw, "alpha_pattern", check.alpha, problems)
        return ConfigSurvey(raw, None, tuple(problems))
    config = _config(path, raw, problems)
    return ConfigSurvey(raw, None if problems else config, tuple(problems))


def _check_values(path: Path, raw: JsonObject, checks: dict[str, check.Check], problems: list[FormatError]) -> None:
    for field, allowed in checks.items():
        if field in raw:
            _tried(problems, None, allowed, path, field, raw[field])


def _tried(problems: list[FormatError], broken: Value, allowed: Callable[..., Value], *arguments: object) -> Value:
    """What `allowed` makes of the value, or `broken` where it refuses it; the refusal goes to `problems`."""
    try:
        return allowed(*arguments)
    except FormatError as error:
        problems.append(error)
        return broken


def _config(path: Path, raw: JsonObject, problems: list[FormatError]) -> AdapterConfig:
    """The configuration with 0 in the place of every broken value, each of which is added to `problems`."""

    def value(allowed: Callable[[Path, str, object], Any], field: str, default: object, broken: Any) -> Any:
        return _tried(problems, broken, allowed, path, field, raw.get(field, default))

    return AdapterConfig(
        path=path,
        raw=raw,
        rank=value(check.rank, "r", 8, 0),
        alpha=value(check.alpha, "lora_alpha", 8, 0.0),
        rslora=value(check.flag, "use_rslora", False, False),
        rank_pattern=_pattern(path, raw, "rank_pattern", check.rank, problems),
        alpha_pattern=_pattern(path, raw, "alpha_pattern", check.alpha, problems),
        fan_in_fan_out=value(check.flag, "fan_in_fan_out", False, False),
        features=tuple(_features(raw)),
    )


def _pattern(
    path: Path, raw: JsonObject, field: str, allowed: Callable[[Path, str, object], Number], problems: list[FormatError]
) -> dict[str, Number]:
    """The values by module of a rank or alpha pattern, 0 in the place of broken ones."""
    found: JsonObject = _tried(problems, {}, check.pattern, path, field, raw.get(field))
    before = len(problems)
    for key in found:
        _tried(problems, "", check.expression, path, f"{field} key", key)
    if len(problems) == before:
        _tried(problems, None, check_expressions, path, field, found)
    zero: Any = 0
    return {key: _tried(problems, zero, allowed, path, f"{field}[{key[:60]}]", one) for key, one in found.items()}


def _features(raw: JsonObject) -> list[str]:
    """Fields that change the arithmetic beyond plain LoRA, as `field=value`; unknown ones count."""
    found = [f"{key}={raw[key]}" for key in sorted(raw) if key not in INERT and not is_neutral(raw[key])]
    if raw.get("bias", "none") != "none":
        found.append(f"bias={raw['bias']}")
    if not _is_plain(raw.get("init_lora_weights", True)):
        found.append(f"init_lora_weights={raw['init_lora_weights']}")
    mapping = raw.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    if library not in KNOWN_LIBRARIES and str(library).partition(".")[0] not in KNOWN_LIBRARIES:
        found.append(f"auto_mapping.parent_library={library}")
    return found


def _is_plain(init: object) -> bool:
    return isinstance(init, str | bool | None) and init in PLAIN_INITS
