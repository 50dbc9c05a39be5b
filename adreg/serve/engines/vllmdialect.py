"""How vLLM behind adreg's gateway is asked for a model. Knows names and request bodies, no connection."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from adreg.errors import ConflictError
from adreg.serve.gateway.dialects import OpenAIDialect
from adreg.serve.models.catalog import ServedModel


@dataclass(frozen=True)
class VllmDialect:
    """An adapter is `name@sha256:…`, the base `base`. vLLM renders every conversation with the base's chat template, so those
    for `own_templates` (digests) are not for it."""

    base: str
    own_templates: Collection[str]

    def address(self, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
        """Raises `ConflictError` for a conversation with an adapter that was trained with another chat template."""
        if "messages" in body and model.adapter in self.own_templates:
            why = f"{model.reference} was trained with a chat template of its own, and vLLM renders the base's"
            raise ConflictError(why, "render it yourself for /v1/completions, or use adreg serve with its own engine")
        return OpenAIDialect(self.base).address(body, model)
