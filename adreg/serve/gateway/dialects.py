"""How each kind of engine wants to be asked for a model. Knows names and request bodies, no connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from adreg.errors import ConflictError
from adreg.references import folder_name
from adreg.serve.models.catalog import ServedModel

JsonObject = dict[str, Any]


class Dialect(Protocol):
    """How one kind of engine wants to be asked for a model."""

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        """The body to send upstream, where `model` is what that engine calls it, for good. `body` itself stays as it is.

        May raise an `AdregError`: a `ConflictError` where that engine does not hold the model.
        """
        ...


@dataclass(frozen=True)
class OpenAIDialect:
    """adreg, and vLLM with adreg's plugin: an adapter is `name@sha256:…`; the base is called `base` (None: by its own name)."""

    base: str | None = None

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        return {**body, "model": immutable_name(model) if model.adapter else self.base or model.base}


@dataclass(frozen=True)
class SglangDialect:
    """SGLang: `base:adapter`, with adapters loaded as `name@sha256:…`. A name without a colon always is the base there."""

    base: str | None = None

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        """Raises `ConflictError` for a base whose name SGLang would take apart."""
        base = self.base or model.base
        if ":" in base:
            raise ConflictError(f"SGLang cannot be asked for the base {base!r}: it splits names at ':'", "rename it there")
        return {**body, "model": f"{base}:{immutable_name(model)}" if model.adapter else base}


@dataclass(frozen=True)
class RayDialect:
    """Ray Serve LLM on what `adreg export ray-layout` wrote: `base:name:<12 hex>`, and `base` alone."""

    base: str | None = None

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        """Raises `ConflictError` for a base whose name Ray would take apart."""
        base = self.base or model.base
        if ":" in base:
            raise ConflictError(f"Ray cannot be asked for the base {base!r}: it splits names at ':'", "rename it there")
        if model.adapter is None:
            return {**body, "model": base}
        name = immutable_name(model).partition("@")[0]
        return {**body, "model": f"{base}:{folder_name(name, model.adapter)}"}


@dataclass(frozen=True)
class NamesDialect:
    """Names go upstream as the client wrote them."""

    def address(self, body: JsonObject, model: ServedModel) -> JsonObject:
        return body


def immutable_name(model: ServedModel) -> str:
    """`name@sha256:…` of an adapter: the same version for ever. Raises `ValueError` for a base."""
    if model.adapter is None:
        raise ValueError(f"{model.id} is no adapter")
    name = (model.reference or model.id).partition("@")[0].partition(":")[0]
    return f"{name}@{model.adapter}"
