"""Module names as places in a model: which stack, which layer, which kind of module. Knows names only."""

from __future__ import annotations

import re
from dataclasses import dataclass

USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYER = re.compile(r"(?:(?P<stack>.*?)\.)?(?P<layer>\d+)\.(?P<kind>.+)")


@dataclass(frozen=True, order=True)
class Place:
    """Where a module is: `model.layers`, 3, `self_attn.q_proj`; `layer` is -1 for one outside all layers, and a number
    within the kind (an expert's) is `*`."""

    stack: str
    layer: int
    kind: str

    @property
    def end(self) -> str:
        """The kind's last part, such as `q_proj`."""
        return self.kind.rpartition(".")[2]


def place_of(module: str) -> Place:
    """The place that the name `module` tells."""
    match = LAYER.fullmatch(module)
    if match is None or len(match["layer"]) > 6:
        return Place("", -1, module)
    kind = ".".join("*" if part.isdecimal() else part for part in match["kind"].split("."))
    return Place(match["stack"] or "", int(match["layer"]), kind)


def kind_order(place: Place) -> tuple[bool, int, str]:
    """Sorts kinds as people read them: attention, then MLP, then the rest; modules outside the layers last."""
    known = USUAL.index(place.end) if place.end in USUAL else len(USUAL)
    return place.layer < 0, known, place.kind
