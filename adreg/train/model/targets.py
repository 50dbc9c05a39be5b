"""Which modules of a base `lora.targets` and its like mean, read from the headers of its files. Knows names, no tensors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from adreg.errors import UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.modelconfig import ties_embeddings
from adreg.train.config import TrainConfig
from adreg.train.model.methods import VIRTUAL

EMBEDDINGS = ("embed_tokens", "wte", "wpe", "word_embeddings", "embed_in")
HEADS = ("lm_head", "embed_out")
LAYER = re.compile(r"\.(\d+)\.")


def check_targets(base: Checkpoint, config: TrainConfig) -> None:
    """Raise `UsageError` for a name, pattern or layer that no module of `base` has, with the names that there are."""
    if config.method in VIRTUAL:
        return
    modules, lora = modules_of(base), config.lora
    linear = linear_modules(base)
    targets = lora.targets if isinstance(lora.targets, list) else []
    if isinstance(lora.targets, list) and not targets:
        raise UsageError("lora.targets is empty: nothing would be trained", f"its linear modules are {_ends(linear)}")
    _require_own_ends(base, config)
    _require("lora.targets", targets, {*linear, *_embeddings(modules)}, linear)
    _require("lora.exclude", lora.exclude, linear, linear)
    _require("lora.modules_to_save", lora.modules_to_save, modules, modules)
    _require_whole(lora.modules_to_save, modules)
    _require_linear(base, config)
    _require_room(base, config)
    for name, pattern in (("lora.rank_pattern", lora.rank_pattern), ("lora.alpha_pattern", lora.alpha_pattern)):
        _require_pattern(name, pattern, linear)
    _require_layers(lora.layers or [], linear)


def modules_of(base: Checkpoint) -> list[str]:
    """Every module of `base` that has a weight, by its full name."""
    return sorted(name.removesuffix(".weight") for name in base.shapes if name.endswith(".weight"))


def linear_modules(base: Checkpoint) -> list[str]:
    """The linear modules, by full name; embeddings are none, the output head is one."""
    heads = [name for name in ("lm_head",) if f"{name}.weight" not in base.shapes]  # a tied head is stored nowhere
    shaped = (name for name, shape in base.shapes.items() if name.endswith(".weight") and len(shape) == 2)
    names = (name.removesuffix(".weight") for name in shaped)
    return sorted([name for name in names if _end(name) not in EMBEDDINGS] + heads)


def linear_names(base: Checkpoint) -> list[str]:
    """The last parts of the names of the linear modules, each once, without the output head."""
    return sorted({_end(name) for name in linear_modules(base)} - set(HEADS))


def _embeddings(modules: Iterable[str]) -> list[str]:
    return [name for name in modules if _end(name) in EMBEDDINGS]


def _end(module: str) -> str:
    return module.rpartition(".")[2]


def _is_named(module: str, name: str) -> bool:
    """Whether PEFT takes `name` for `module`: its whole name, or the end of it behind a dot."""
    return module == name or module.endswith(f".{name}") or f"base.{module}".endswith(f".{name}")


def _require(setting: str, names: Iterable[str], modules: Iterable[str], shown: Iterable[str]) -> None:
    for name in names:
        if not any(_is_named(module, name) for module in modules):
            raise UsageError(f"{setting}: this base has no {name!r}", _hint(name, shown))


def _hint(name: str, modules: Iterable[str]) -> str:
    known = sorted({_end(module) for module in modules})
    close = difflib.get_close_matches(_end(name), known, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"its linear modules are {_ends(modules)}"


def _ends(modules: Iterable[str]) -> str:
    return ", ".join(sorted({_end(module) for module in modules}))


def _require_whole(names: list[str], modules: list[str]) -> None:
    """A module of `modules_to_save` must be one module, not a name that several layers share."""
    for name in names:
        found = [module for module in modules if _is_named(module, name)]
        if len(found) > 1 and any(LAYER.search(f".{module}.") for module in found):
            raise UsageError(
                f"lora.modules_to_save: {name!r} means {len(found)} modules, each of which would be trained whole",
                "name single ones, such as lm_head, or adapt them with lora.targets",
            )


def _require_own_ends(base: Checkpoint, config: TrainConfig) -> None:
    """Embedding and output head can be adapted where they are two tensors, and the head where it is used as it is stored."""
    named = [*config.lora.modules_to_save, *(config.lora.targets if isinstance(config.lora.targets, list) else [])]
    heads = [name for name in named if _end(name) in HEADS]
    if heads and base.config.get("norm_head"):
        raise UsageError(f"{heads[0]} of this base is normalised as it runs, and a trained one would not be", "remove it")
    ends = heads + [name for name in named if _end(name) in EMBEDDINGS and _end(name) != "wpe"]
    if ends and ties_embeddings(base.config) and not any(f"{head}.weight" in base.shapes for head in HEADS):
        raise UsageError(
            f"{ends[0]}: this base has one tensor for its embedding and its output head, and an adapter of it fits no merge",
            f"remove {ends[0]}; lora.new_tokens trains single rows of it",
        )


def _require_linear(base: Checkpoint, config: TrainConfig) -> None:
    odd = [module for module in linear_modules(base) if base.is_conv1d(module)]
    if odd and config.method in ("loha", "lokr"):
        raise UsageError(f"method {config.method} does not know the Conv1D modules of this base", "take method lora or ia3")


def _require_room(base: Checkpoint, config: TrainConfig) -> None:
    """A part of a weight, or directions of its inputs, cannot be more than the weight has; PEFT begins embeddings as ever."""
    lora = config.lora
    if config.method != "lora" or config.parent is not None or lora.init in ("default", "gaussian"):
        return
    chosen = lora.targets if isinstance(lora.targets, list) else linear_names(base)
    if any(_end(name) in EMBEDDINGS for name in chosen):
        raise UsageError(f"lora.init {lora.init} begins linear modules, not embeddings", "remove the embedding or lora.init")
    rank = max(lora.r, *lora.rank_pattern.values(), 0)
    for module in linear_modules(base):
        if any(_is_named(module, name) for name in chosen) and rank > min(base.shapes.get(f"{module}.weight", (rank,))):
            raise UsageError(f"lora.init {lora.init}: {module} has a smaller side than rank {rank}", "take a lower lora.r")


def _require_pattern(setting: str, pattern: dict[str, int] | dict[str, float], linear: list[str]) -> None:
    for key in pattern:
        try:
            found = any(re.match(rf"(.*\.)?({key})$", module) for module in linear)
        except re.error as error:
            raise UsageError(f"{setting}: {key!r} is no expression: {error}") from error
        if not found:
            raise UsageError(f"{setting}: {key!r} means no module of this base", _hint(key, linear))


def _require_layers(layers: list[int], linear: list[str]) -> None:
    there = sorted({number for module in linear for number in _numbers(module)})
    for layer in layers:
        if layer not in there:
            raise UsageError(f"lora.layers: there is no layer {layer}", f"its layers are 0 to {there[-1] if there else 0}")


def _numbers(module: str) -> Iterator[int]:
    found = LAYER.search(f".{module}.")
    if found:
        yield int(found[1])
