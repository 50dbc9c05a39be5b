"""What each method can be told, and which settings contradict each other. Knows settings, no files and no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from adreg.errors import UsageError
from adreg.train.config import LoraSettings, PromptSettings, TrainConfig

MODULES = ("targets", "exclude", "modules_to_save")
LOW_RANK = ("r", "alpha", "layers", "rank_pattern", "alpha_pattern", *MODULES)
LORA_ONLY = ("dropout", "rslora", "dora", "init", "lr_ratio", "new_tokens")
USED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lora": ((*LOW_RANK, *LORA_ONLY), ()),
    "ia3": (MODULES, ()),
    "loha": (LOW_RANK, ()),
    "lokr": (LOW_RANK, ()),
    "prefix": ((), ("tokens", "hidden")),
    "p-tuning": ((), ("tokens", "hidden")),
    "prompt": ((), ("tokens", "text")),
}
"""The settings of the sections `lora` and `prompt` that a method obeys."""
VIRTUAL = ("prefix", "p-tuning", "prompt")
CHANGING = ("pissa", "olora")
"""The `lora.init` that take a part out of the base's weights and give it to the adapter."""


def learns_tokens(config: TrainConfig) -> bool:
    """Whether the method puts learned tokens before every row: rows cannot be laid end to end then."""
    return config.method in VIRTUAL


def changes_base(config: TrainConfig) -> bool:
    """Whether the adapter, while it is trained, fits only a base that its initialisation changed."""
    return config.parent is None and config.lora.init in CHANGING


def check_method(config: TrainConfig) -> None:
    """Raise `UsageError`, naming the setting to remove, where the method cannot do what `config` asks."""
    for why, hint in (*_unused(config), *_contradictions(config)):
        raise UsageError(why, hint)


def differing(settings: BaseModel, default: BaseModel) -> dict[str, Any]:
    """The settings that are not as they come, by name."""
    return {name: value for name, value in settings if value != getattr(default, name)}


def _unused(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """A setting that is not its default and that the method has no use for."""
    lora, prompt = USED[config.method]
    changed = [f"lora.{name}" for name in differing(config.lora, LoraSettings()) if name not in lora]
    changed += [f"prompt.{name}" for name in differing(config.prompt, PromptSettings()) if name not in prompt]
    for name in changed:
        obeyed = [f"lora.{one}" for one in lora] + [f"prompt.{one}" for one in prompt]
        yield f"method {config.method} knows no {name}", f"remove {name}; {config.method} obeys {', '.join(obeyed)}"


def _contradictions(config: TrainConfig) -> Iterator[tuple[str, str]]:
    lora, init = config.lora, config.lora.init
    if init == "orthogonal" and any(rank % 2 for rank in (lora.r, *lora.rank_pattern.values())):
        yield "lora.init orthogonal needs even ranks", f"lora.r={lora.r + lora.r % 2}"
    if init in CHANGING and lora.dora:
        yield f"lora.init {init} changes the base, and a DoRA on it fits no other", "remove lora.dora or lora.init"
    if init in CHANGING and config.objective == "dpo":
        yield f"lora.init {init} changes the base, and dpo compares with the base as it is", "remove lora.init"
    yield from _of_quantised(config)
    yield from _of_virtual(config)
    if config.parent is not None:
        yield from _of_continued(config)


def _of_quantised(config: TrainConfig) -> Iterator[tuple[str, str]]:
    if config.base.quantise == "none":
        return
    if config.method in ("loha", "lokr"):
        yield f"method {config.method} cannot adapt a quantised base", "remove base.quantise, or take method=lora"
    if config.lora.init in (*CHANGING, "orthogonal"):
        yield f"lora.init {config.lora.init} needs the weights that base.quantise rounds", "remove lora.init"
    if config.train.precision == "fp32":
        yield "base.quantise computes in bf16", "remove train.precision"


def _of_virtual(config: TrainConfig) -> Iterator[tuple[str, str]]:
    if not learns_tokens(config):
        return
    if config.objective == "dpo":
        yield (
            f"method {config.method} puts its tokens before every row, and dpo lays two answers to one prompt",
            "remove method",
        )
    if config.train.packing:
        yield f"method {config.method} puts its tokens before every row: rows cannot be packed", "remove train.packing"
    if config.method == "prefix" and config.train.checkpointing == "on":
        yield "method prefix keeps its tokens in the cache, which checkpointing drops", "remove train.checkpointing"


def _of_continued(config: TrainConfig) -> Iterator[tuple[str, str]]:
    if config.lora.init != "default":
        yield "a continued adapter has its weights already, and lora.init would draw new ones", "remove lora.init"
    if config.lora.new_tokens:
        yield "a continued adapter keeps the tokens of its parent", "remove lora.new_tokens"
    if config.method == "p-tuning" or (config.method == "prefix" and config.prompt.hidden):
        what = f"method {config.method}{'' if config.method == 'p-tuning' else ' with prompt.hidden'}"
        yield f"{what} saves its tokens, not the network that made them: it cannot be continued", "remove parent"
