"""How a base wants to be sampled where the client says nothing: its generation_config.json, read as vLLM reads it."""

from __future__ import annotations

import math
from pathlib import Path

from adreg.errors import FormatError
from adreg.formats.strictjson import read_object
from adreg.serve.generation import Sampling

FILE = "generation_config.json"
RULE = "B-CFG-0"
RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 31),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}


def sampling_defaults(folder: Path) -> Sampling:
    """Temperature, top-p, top-k, min-p and repetition penalty of the base in `folder`, whatever its `do_sample` says.

    Raises `FormatError` for values that cannot be meant.
    """
    path = folder / FILE
    if not path.is_file():
        return Sampling()
    said = read_object(path, RULE)
    found = {name: _checked(path, name, said[name]) for name in RANGES if said.get(name) is not None}
    return Sampling(**found)  # type: ignore[arg-type]


def _checked(path: Path, name: str, value: object) -> float:
    low, high = RANGES[name]
    kinds = (int,) if name == "top_k" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        raise FormatError(path, f"has a {name} of {value!r:.50}", RULE)
    return value
