"""Whether an adapter fits a base, decided before anything runs on it: its form, modules, shapes and values.

Refuses by name what would be ignored, misread or dangerous for others. Knows names and files, not what computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from adreg.errors import ConflictError, FormatError, UnsupportedError
from adreg.formats.adapters.adapter import Adapter, LoraModule
from adreg.formats.adapters.mergeable import SERVED
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.canonical import canonical_name, canonical_names
from adreg.formats.dtypes import BITS, FLOATS, Float32, all_finite, from_float32, to_float32
from adreg.formats.safetensors import TensorView

BLOCK = 1 << 18
OTHER_BASE = "it was trained on another base; serve it on that one"
MERGE_IT = "merge it into the base and serve that"


@dataclass(frozen=True)
class Site:
    """A module of the base that LoRA can adapt: `inside` features (or tokens of vocabulary) to `outside` ones.

    `tied`: its weight is also that of another module, which an adapter of this one leaves as it is.
    """

    kind: Literal["linear", "conv1d", "embedding"]
    inside: int
    outside: int
    tied: bool = False


@dataclass(frozen=True)
class Fitted:
    """A LoRA module, under the base's own name for it, with its place. `magnitude` is DoRA's vector (outside,)."""

    lora: LoraModule
    site: Site
    magnitude: TensorView | None = None


def fit(sites: Mapping[str, Site], checkpoint: Checkpoint, name: str, adapter: Adapter) -> tuple[Fitted, ...]:
    """The place in `sites`, which are those of `checkpoint`, for every module of `adapter`, called `name` in messages.

    Raises `UnsupportedError` for what is more than LoRA or DoRA, `FormatError` for broken parts and values,
    `ConflictError` where the base has no such module or another shape.
    """
    return _Fitting(sites, checkpoint, name, adapter).run()


@dataclass(frozen=True)
class _Fitting:
    sites: Mapping[str, Site]
    checkpoint: Checkpoint
    name: str
    adapter: Adapter

    def run(self) -> tuple[Fitted, ...]:
        self._check_form()
        self._check_copies()
        fitted = tuple(self._fitted(lora) for lora in self.adapter.modules)
        doubled = [place for place, count in Counter(part.lora.name for part in fitted).items() if count > 1]
        if doubled:
            raise FormatError(self.adapter.file.path, f"adapts {doubled[0]!r} twice, under two names", "K-KEY-7")
        return fitted

    def _check_form(self) -> None:
        adapter, path = self.adapter, self.adapter.file.path
        more = [feature for feature in adapter.features if feature not in SERVED]
        if more:
            raise UnsupportedError(f"adapter {self.name}: {more[0]}", MERGE_IT)
        if adapter.foreign:
            raise FormatError(path, f"{adapter.foreign[0]!r} is no LoRA parameter", "K-KEY-1")
        if adapter.unpaired:
            raise FormatError(path, f"module {adapter.unpaired[0]!r} lacks its A or its B", "K-KEY-2")
        if not adapter.modules:
            raise FormatError(path, "holds no LoRA module", "F-EMP-1")
        odd = set(self._magnitudes) ^ set(adapter.by_name if adapter.config.raw.get("use_dora") else ())
        if odd:
            raise FormatError(path, f"module {min(odd)!r} and use_dora disagree about a magnitude vector", "K-CFG-8")

    def _check_copies(self) -> None:
        """Saved copies of base weights are harmless while they are what the base has."""
        for weight, copy in self.adapter.base_copies.items():
            self._check_values(copy)
            own = self._own(weight)
            if own is None or own.shape != copy.shape:
                raise ConflictError(f"adapter {self.name} carries its own {weight}, which does not fit the base", OTHER_BASE)
            if not _same(own, copy):
                raise UnsupportedError(f"adapter {self.name}: its own, changed {weight}", MERGE_IT)

    def _fitted(self, lora: LoraModule) -> Fitted:
        path, place = self.adapter.file.path, self._place(lora.name)
        site = self.sites[place]
        if lora.embedding != (site.kind == "embedding"):
            form = "an embedding" if lora.embedding else "a linear layer"
            raise UnsupportedError(f"adapter {self.name}: LoRA made for {form} on {lora.name}, a {site.kind},")
        inside, outside = lora.a.shape[1], lora.b.shape[0]
        if (inside, outside) != (site.inside, site.outside):
            why = f"maps {inside} to {outside} at {lora.name}; the base maps {site.inside} to {site.outside}"
            raise ConflictError(f"adapter {self.name} {why}", OTHER_BASE)
        if lora.rank != self.adapter.config.rank_of(lora.name):
            raise FormatError(path, f"{lora.name!r} has rank {lora.rank}, which its configuration denies", "K-CFG-3")
        magnitude = self._magnitudes.get(lora.name)
        if magnitude is not None and magnitude.shape != (site.outside,):
            raise FormatError(path, f"{magnitude.name!r} has shape {magnitude.shape}, not {(site.outside,)}", "B-SHP-2")
        for view in filter(None, (lora.a, lora.b, magnitude)):
            self._check_values(view)
        return Fitted(replace(lora, name=place), site, magnitude)

    def _place(self, module: str) -> str:
        """The base's own name of `module`, which versions of transformers wrap differently."""
        place = module if module in self.sites else self._places.get(canonical_name(module))
        if place is not None:
            return place
        if self._own(f"{module}.weight") is not None:
            raise UnsupportedError(f"adapter {self.name}: LoRA on {module}, no linear layer or embedding,", MERGE_IT)
        raise ConflictError(f"adapter {self.name} adapts {module}, which the base does not have", OTHER_BASE)

    def _check_values(self, view: TensorView) -> None:
        """NaN and infinity are refused: they would poison whatever is computed together with them."""
        path = self.adapter.file.path
        if view.dtype not in FLOATS:
            raise UnsupportedError(f"{path}: {view.name} of type {view.dtype}", f"save it as {', '.join(FLOATS)}")
        if not all_finite(view.data, view.dtype):
            raise FormatError(path, f"{view.name} holds NaN or infinity", "Q-NAN-1")

    def _own(self, weight: str) -> TensorView | None:
        """The base's tensor `weight`; that of the embedding table for a tied head that the files do not hold."""
        found = self._tensors.get(canonical_name(weight))
        site = self.sites.get(weight.removesuffix(".weight"))
        if found is None and site is not None and site.tied:
            tables = (name for name, other in self.sites.items() if other.tied and other.kind == "embedding")
            return next((self._tensors.get(canonical_name(f"{name}.weight")) for name in tables), None)
        return found

    @cached_property
    def _places(self) -> dict[str, str]:
        return {canonical: name for name, canonical in canonical_names(self.sites).items()}

    @cached_property
    def _tensors(self) -> dict[str, TensorView]:
        return {canonical: self.checkpoint[name] for name, canonical in canonical_names(self.checkpoint).items()}

    @cached_property
    def _magnitudes(self) -> dict[str, TensorView]:
        return {key.module: self.adapter.file[key.raw] for key in self.adapter.extras if key.part == "magnitude"}


def _same(own: TensorView, copy: TensorView) -> bool:
    """Whether both hold the same values in the coarser of their types; compared `BLOCK` elements at a time."""
    if own.dtype not in FLOATS:
        return False
    coarse = min((own.dtype, copy.dtype), key=BITS.__getitem__)
    with np.errstate(over="ignore"):
        pairs = zip(_blocks(own, coarse), _blocks(copy, coarse), strict=True)
        return all(np.array_equal(one, other) for one, other in pairs)


def _blocks(view: TensorView, dtype: str) -> Iterator[Float32]:
    for raw in view.windows(BLOCK * BITS[view.dtype] // 8):
        block = to_float32(raw, view.dtype)
        yield block if view.dtype == dtype else to_float32(from_float32(block, dtype), dtype)
