"""LoHa and LoKr on linear layers, the only ones that PEFT adapts so in a language model.

Sources: peft tuners/loha/layer.py and tuners/lokr/layer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from adreg.errors import UnsupportedError
from adreg.export.changes.change import Change
from adreg.export.changes.source import AdaptedModule
from adreg.export.fold.lycoris import LohaUpdate, LokrUpdate
from adreg.formats.adapters import values as check
from adreg.formats.adapters.namepatterns import NamePattern
from adreg.formats.dtypes import Float32


def loha_changes(module: AdaptedModule) -> Iterator[Change]:
    name = _linear(module)
    (rows, columns), rank = module.weights.view(name).shape, module.parts["w1_b"].shape[0]
    first, second = (
        (module.shaped(f"{half}_a", rows, rank), module.shaped(f"{half}_b", rank, columns)) for half in ("w1", "w2")
    )
    yield Change(name, module.source, LohaUpdate(first, second, _factor(module), module.source.label), additive=True)


def lokr_changes(module: AdaptedModule) -> Iterator[Change]:
    name = _linear(module)
    update = LokrUpdate(_matrix(module, "w1"), _matrix(module, "w2"), _factor(module), module.source.label)
    yield Change(name, module.source, update, additive=True)


def _linear(module: AdaptedModule) -> str:
    name, transposed = module.linear()
    if transposed:
        raise UnsupportedError(f"merging {module.source.label}: a {module.source.family.kind} on the Conv1D {module.name!r}")
    return name


def _matrix(module: AdaptedModule, name: str) -> Callable[[], Float32]:
    """A factor of the Kronecker product: a matrix, or the product of two."""
    if name in module.parts:
        return module.parts[name].float32
    left, right = module.parts[f"{name}_a"], module.parts[f"{name}_b"]
    module.shaped(f"{name}_b", left.shape[1], right.shape[1])
    return lambda: left.float32() @ right.float32()


def _factor(module: AdaptedModule) -> float:
    """The user's weight times alpha / r, both by the patterns of the configuration."""
    path, raw = module.source.adapter.config.path, module.source.adapter.config.raw
    ranks, alphas = (NamePattern(check.pattern(path, field, raw.get(field))) for field in ("rank_pattern", "alpha_pattern"))
    rank = check.rank(path, "r", ranks.value(module.name, raw.get("r", 8)))
    return module.source.weight * check.alpha(path, "alpha", alphas.value(module.name, raw.get("alpha", 8))) / rank
