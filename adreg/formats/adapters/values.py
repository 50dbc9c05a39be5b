"""The single values of an adapter_config.json: what each may be, and by which rule it is refused. Knows no file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from adreg.errors import FormatError
from adreg.formats.adapters.expressions import weight_of
from adreg.formats.strictjson import JsonObject

MAX_RANK = 1024
MAX_SIZE = 65_536
MAX_WEIGHT = 24.0
MAX_EXPRESSIONS = 64
# what PEFT puts around an expression before it matches; peft/tuners/tuners_utils.py and peft/utils/other.py
FRAMES = {
    "rank_pattern key": r"(.*\.)?({})$",
    "alpha_pattern key": r"(.*\.)?({})$",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "layers_pattern entry": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "modules_to_save entry": r"(^|.*\.){}($|\..*)",
}
PLAIN_NAME = re.compile(r"[\w.\-]+")
Check = Callable[[Path, str, Any], Any]


def pattern(path: Path, field: str, value: object) -> JsonObject:
    value = value or {}
    if not isinstance(value, dict):
        raise FormatError(path, f"{field} is not an object", "K-CFG-1")
    few(path, field, value)
    return value


def few(path: Path, field: str, texts: Iterable[object]) -> None:
    """Refuse more expressions than anyone writes: each has to be weighed, and matched against every module."""
    if sum(not (isinstance(text, str) and PLAIN_NAME.fullmatch(text)) for text in texts) > MAX_EXPRESSIONS:
        raise FormatError(path, f"{field} has more than {MAX_EXPRESSIONS} expressions; write plain module names", "K-CFG-5")


def expression(path: Path, field: str, text: object) -> str:
    """`text`, if a loader that matches it against module names comes back soon."""
    if not isinstance(text, str):
        raise FormatError(path, f"{field} is {str(text)[:60]!r}; it must be a name", "K-CFG-1")
    if PLAIN_NAME.fullmatch(text):
        return text
    try:
        weight = weight_of(FRAMES.get(field, "{}").replace("{}", text))
    except ValueError as error:
        raise FormatError(path, f"{field} {text[:60]!r} is no expression: {error}", "K-CFG-5") from error
    if weight > MAX_WEIGHT:
        raise FormatError(path, f"{field} {text[:60]!r} could match for ever; write plain module names", "K-CFG-5")
    return text


def names(path: Path, field: str, value: object) -> None:
    """null, one expression, or a list of names."""
    if isinstance(value, list):
        few(path, field, value)
        for one in value:
            expression(path, f"{field} entry", one)
    elif value is not None:
        expression(path, field, value)


def layers(path: Path, field: str, value: object) -> None:
    """null, a layer's number, or a list of them."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(one) is not int or one < 0 for one in found):
        raise FormatError(path, f"{field} is {str(value)[:60]}; layers are whole numbers from 0", "K-CFG-1")


def rank(path: Path, field: str, value: object) -> int:
    return _whole(path, field, value, 1, MAX_RANK)


def rank_or_none(path: Path, field: str, value: object) -> int:
    """A rank, or 0 where another field gives the size (OFT)."""
    return _whole(path, field, value, 0, MAX_RANK)


def size(path: Path, field: str, value: object) -> int:
    """A number of tokens or blocks, or a width; null where it is left to the model."""
    return _whole(path, field, 0 if value is None else value, 0, MAX_SIZE)


def factor(path: Path, field: str, value: object) -> int:
    """A divisor, or -1 where it is left to PEFT."""
    return _whole(path, field, value, -1, MAX_SIZE)


def tokens(path: Path, field: str, value: object) -> int:
    """A number of virtual tokens."""
    return _whole(path, field, value, 1, MAX_SIZE)


def alpha(path: Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise FormatError(path, f"{field} is {str(value)[:60]}; alpha is a number above 0", "K-CFG-4")
    return float(value)


def flag(path: Path, field: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise FormatError(path, f"{field} is {str(value)[:60]}; it must be true or false", "K-CFG-1")
    return bool(value)


def _whole(path: Path, field: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        why = f"{field} is {str(value)[:60]}; it must be a whole number from {least} to {most:,}"
        raise FormatError(path, why, "K-CFG-3")
    return value


PATTERNED = ("LOHA", "LOKR")
NAMES: dict[str, Check] = {
    "target_modules": names,
    "exclude_modules": names,
    "layers_pattern": names,
    "modules_to_save": names,
    "feedforward_modules": names,
    "target_parameters": names,
    "layers_to_transform": layers,
}
FAMILY_SIZES: dict[str, dict[str, Check]] = {
    "ADALORA": {"r": rank, "init_r": rank, "target_r": rank, "lora_alpha": alpha},
    "LOHA": {"r": rank, "alpha": alpha},
    "LOKR": {
        "r": rank,
        "alpha": alpha,
        "decompose_factor": lambda path, field, value: _whole(path, field, value, -1, MAX_SIZE),
    },
    "OFT": {"r": rank_or_none, "oft_block_size": size},
    "BOFT": {"boft_block_size": size, "boft_block_num": size, "boft_n_butterfly_factor": size},
    "VERA": {"r": rank},
    "PROMPT_TUNING": {"num_virtual_tokens": tokens, "token_dim": size},
    "PREFIX_TUNING": {"num_virtual_tokens": tokens, "token_dim": size, "encoder_hidden_size": size},
    "P_TUNING": {"num_virtual_tokens": tokens, "token_dim": size, "encoder_hidden_size": size, "encoder_num_layers": size},
}
