"""The base card: what a base is by content, and what of it the audit rules need. Plain data, stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adreg.formats.checkpoint import Checkpoint
from adreg.formats.fingerprint import BaseIds
from adreg.formats.modelconfig import ties_embeddings


@dataclass(frozen=True)
class BaseCard:
    """The recorded fingerprints of a base, its tensor shapes, and how its architecture names things."""

    name: str
    ids: BaseIds
    architecture: str
    model_type: str
    parameters: int
    dtype: str
    shapes: dict[str, tuple[int, ...]]
    conv1d: tuple[str, ...]
    tied: bool

    @property
    def digest(self) -> str:
        """The id that names this base: its weights' id."""
        return self.ids.weights_id

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> BaseCard:
        shapes = {name: tuple(shape) for name, shape in stored["shapes"].items()}
        return cls(**{**stored, "ids": BaseIds(**stored["ids"]), "shapes": shapes, "conv1d": tuple(stored["conv1d"])})


def make_card(name: str, base: Checkpoint, ids: BaseIds) -> BaseCard:
    """The card of `base`, whose ids `fingerprint` found."""
    modules = {tensor.removesuffix(".weight") for tensor in base}
    return BaseCard(
        name=name,
        ids=ids,
        architecture=base.architecture,
        model_type=base.model_type,
        parameters=base.parameters,
        dtype="/".join(sorted({view.dtype for view in base.values()})),
        shapes={tensor: view.shape for tensor, view in base.items()},
        conv1d=tuple(sorted(module for module in modules if base.is_conv1d(module))),
        tied=ties_embeddings(base.config),
    )
