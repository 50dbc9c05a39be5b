"""What a checkpoint belongs to: base, data and the settings that decide what is computed. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adreg.train.config import TrainConfig

FREE = {"description": True, "save": True, "track": True, "eval": {"prompts", "max_new_tokens"}}


def identity(base_ids: Mapping[str, Any], config: TrainConfig, digests: Sequence[str]) -> dict[str, Any]:
    """Base ids, the SHA-256 of the data files, and the configuration without what leaves the weights as they are."""
    settings = config.model_dump(mode="json", exclude=FREE)  # type: ignore[arg-type]
    for sources in (settings["data"]["train"], settings["data"]["eval"]):
        for source in sources if isinstance(sources, list) else []:
            source.pop("path", None)
    return {"base": dict(base_ids), "data": list(digests), "config": settings}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, each as a sentence's part such as `train.lr was 0.001 and is 0.002`."""
    found = [f"{name} was {old!r} and is {new!r}" for name, old, new in _unequal(before["config"], now["config"])]
    if before["data"] != now["data"]:
        found.append("the data files are others")
    found += [f"the base's {name} was {old} and is {new}" for name, old, new in _unequal(before["base"], now["base"])]
    return found


def _unequal(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            yield from _unequal(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield name, before, now
