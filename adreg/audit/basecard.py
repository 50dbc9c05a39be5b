"""The base card: what a base is by content, and what of it the audit rules need. Plain data, stored as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adreg.audit.licenses import is_gated, license_of
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.bases.modelconfig import ties_embeddings
from adreg.formats.quantised.packed import Quantisation
from adreg.formats.text.tokenizer import token_count

QUANT_OF = "QUANT-OF"
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Relative:
    """Another base that this one was made from (`original`), or that was made from this one.

    `verdict` is QUANT-OF or undecided. `configured_alike`: their configurations are the same, as far as they say.
    """

    name: str
    weights_id: str
    verdict: str
    score: float
    evidence: str
    original: bool
    configured_alike: bool


@dataclass(frozen=True)
class BaseCard:
    """The recorded fingerprints of a base, its tensor shapes, and how its architecture names things.

    `tokens` is one more than its tokenizer's largest id, `special` the texts of its special tokens by role, `commit` the
    one of the hub's snapshot that it lies in, `license` the hub's name of its licence; each where it is known. `gated`:
    its hub hands it out on request only. `relatives` are found anew when the card is read, and no part of its JSON.
    """

    name: str
    ids: BaseIds
    architecture: str
    model_type: str
    parameters: int
    dtype: str
    shapes: dict[str, tuple[int, ...]]
    conv1d: tuple[str, ...]
    tied: bool
    container: str = "safetensors"
    quantisation: Quantisation | None = None
    tokens: int | None = None
    special: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    license: str = ""
    gated: bool = False
    relatives: tuple[Relative, ...] = ()

    @property
    def digest(self) -> str:
        """The id that names this base: its weights' id."""
        return self.ids.weights_id

    def relative(self, weights_id: str) -> Relative | None:
        """The base with `weights_id`, where it is a copy or the original of this one for certain."""
        found = [one for one in self.relatives if one.weights_id == weights_id and one.verdict == QUANT_OF]
        return next((one for one in found if one.configured_alike), None)

    def as_json(self) -> dict[str, Any]:
        stored = asdict(self)
        del stored["relatives"]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], relatives: tuple[Relative, ...] = ()) -> BaseCard:
        shapes = {name: tuple(shape) for name, shape in stored["shapes"].items()}
        said = stored.get("quantisation")
        changed = {
            "ids": BaseIds(**stored["ids"]),
            "shapes": shapes,
            "conv1d": tuple(stored["conv1d"]),
            "quantisation": Quantisation(**said) if said else None,
        }
        return cls(**{**stored, **changed}, relatives=relatives)


def make_card(name: str, base: Checkpoint, ids: BaseIds) -> BaseCard:
    """The card of `base`, whose ids `fingerprint` found."""
    shapes = base.shapes
    modules = {tensor.removesuffix(".weight") for tensor in shapes}
    return BaseCard(
        name=name,
        ids=ids,
        architecture=base.architecture,
        model_type=base.model_type,
        parameters=base.parameters,
        dtype="/".join(sorted({view.dtype for view in base.values()})),
        shapes=shapes,
        conv1d=tuple(sorted(module for module in modules if base.is_conv1d(module))),
        tied=ties_embeddings(base.config),
        container=base.container,
        quantisation=base.quantisation,
        tokens=_token_count(base),
        special=base.tokenizer.special_tokens,
        commit=_commit_of(base.folder),
        license=license_of(base.front_matter),
        gated=is_gated(base.front_matter),
    )


def _token_count(base: Checkpoint) -> int | None:
    definition = base.tokenizer.definition if base.container == "safetensors" else None
    return None if definition is None else token_count(definition)


def _commit_of(folder: Path) -> str | None:
    """The commit whose snapshot in the hub's cache `folder` is, or None."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None
