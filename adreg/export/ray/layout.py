"""Where Ray Serve LLM looks for adapters and what it calls them. Knows neither stores nor registries.

Ray 2.60 splits a model `base:rest` at its first colon and downloads all that lies in `<dynamic_lora_loading_path>/<rest>`;
an adapter exists there as soon as its adapter_config.json does, and every folder counts as one, of every base that is
configured with that path (ray/llm/_internal/common/utils/lora_utils.py, .../serve/utils/lora_serve_utils.py). Hence:

    adreg-ray.json                                  of which base the adapters here are: of one
    [<namespace>:]<name>:<12 hex of the digest>/    an adapter: that version, for ever
        adapter_model.safetensors
        adapter_config.json                         comes last
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import FormatError
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.strictjson import parse_object
from adreg.references import folder_name

MARKER = "adreg-ray.json"
FILES = (WEIGHTS, CONFIG)
LISTED = 1000
"""Adapters that Ray lists: it reads one page of the store's answer. It serves the others all the same."""
FORMAT, VERSION, RULE = "adreg-ray", 1, "S-OBJ-1"


def model_id(base: str, name: str, digest: str) -> str:
    """What a client of Ray asks for; `base` is the `model_id` of Ray's configuration."""
    return f"{base}:{folder_name(name, digest)}"


@dataclass(frozen=True)
class Owner:
    """The base whose adapters a place holds: its name when the place was made, and the id of its weights."""

    base: str
    weights_id: str

    def dump(self) -> bytes:
        return json.dumps({"format": FORMAT, "version": VERSION, **vars(self)}).encode()

    @classmethod
    def load(cls, content: bytes, source: str) -> Owner:
        """Raises `FormatError` for anything that `dump` did not write."""
        said = parse_object(content, Path(source), RULE)
        base, weights_id = said.get("base"), said.get("weights_id")
        if said.get("format") != FORMAT or not isinstance(base, str) or not isinstance(weights_id, str):
            raise FormatError(source, "does not say whose adapters are here", RULE)
        if said.get("version") != VERSION:
            raise FormatError(source, f"is of format {said.get('version')}, which this adreg does not know", RULE)
        return cls(base, weights_id)
