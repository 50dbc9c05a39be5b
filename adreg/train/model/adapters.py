"""Adapters of every method on a loaded base, through PEFT: fresh ones, and those whose training goes on. Knows no data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adreg.errors import FormatError, UsageError
from adreg.formats.adapters.adapter import WEIGHTS
from adreg.train.config import LoraSettings, TrainConfig
from adreg.train.data.encode import Example
from adreg.train.model.initial import ADAPTER, begin_as_text, begin_small, initialise

Model = Any
TASK = "CAUSAL_LM"
BY_PEFT = ("default", "gaussian")


def attach(
    model: Model, config: TrainConfig, examples: Iterable[Example] = (), text: Sequence[int] = (), tokens: Sequence[int] = ()
) -> Model:
    """A fresh adapter on `model`, whose weights `train.seed` decides. `text`: the ids of `prompt.text`, `tokens`: those of
    `lora.new_tokens`; `examples` are what init eva looks at. Raises `UsageError` for targets that the model lacks."""
    torch.manual_seed(config.train.seed)
    try:
        adapted = get_peft_model(model, peft_config(model, config, tokens))
    except ValueError as error:
        raise UsageError(f"method {config.method} does not fit this base: {error}", _linear_names(model)) from error
    if config.method == "lora" and config.lora.init not in BY_PEFT:
        initialise(adapted, config.lora.init, examples)
    if config.method == "prefix" and config.prompt.hidden is None:
        begin_small(adapted.prompt_encoder[ADAPTER])
    if text:
        begin_as_text(adapted.prompt_encoder[ADAPTER], adapted.word_embeddings, text)
    _keep_masters(adapted)
    return adapted


def continue_training(model: Model, folder: Path, dropout: float = 0.0) -> Model:
    """The adapter in `folder` on `model`, with all of its weights trained further, with this run's `dropout`. Raises
    `FormatError` for tensors that it and the model do not share."""
    adapted = as_parent(model, folder, dropout)
    try:
        result = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"))
    except (RuntimeError, KeyError) as error:
        raise FormatError(folder / WEIGHTS, f"does not fit this base: {error}", "B-SHP-1") from error
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    lost = [*result.unexpected_keys, *(name for name in result.missing_keys if name in trained)]
    if lost and not adapted.active_peft_config.is_prompt_learning:  # whose one tensor PEFT puts in place itself, and strictly
        raise FormatError(folder / WEIGHTS, f"and this base do not agree about {lost[0]}", "B-SHP-1")
    _keep_masters(adapted)
    return adapted


def as_parent(model: Model, folder: Path, dropout: float = 0.0) -> Model:
    """An adapter on `model` that is made like the one in `folder`, without its weights."""
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode, config.base_model_name_or_path = False, None
    if isinstance(config, LoraConfig):
        config.lora_dropout = dropout
    return get_peft_model(model, config)


def peft_config(model: Model, config: TrainConfig, tokens: Sequence[int] = ()) -> PeftConfig:
    """PEFT's configuration for what `config` asks of `model`."""
    prompt, method = config.prompt, config.method
    if method == "lora":
        return _lora_config(model, config.lora, tokens)
    if method == "ia3":
        return _ia3_config(model, config.lora)
    if method in ("loha", "lokr"):
        return {"loha": LoHaConfig, "lokr": LoKrConfig}[method](**_low_rank(model, config.lora), alpha=_alpha(config.lora))
    count = {"task_type": TASK, "num_virtual_tokens": prompt.tokens}
    if method == "prefix":
        return PrefixTuningConfig(**count, prefix_projection=prompt.hidden is not None, encoder_hidden_size=prompt.hidden)
    if method == "p-tuning":
        return PromptEncoderConfig(**count, encoder_hidden_size=prompt.hidden)
    return PromptTuningConfig(**count, prompt_tuning_init="SAMPLE_VOCAB")


def parameter_groups(model: Model, config: TrainConfig) -> list[dict[str, Any]]:
    """The trained parameters for the optimizer, in the order of the model. With `lora.lr_ratio` (LoRA+, arXiv 2402.12354)
    the B matrices are a group of their own, whose rate is so many times as high."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    common = {"weight_decay": config.train.weight_decay}
    ratio = config.lora.lr_ratio
    if ratio is None:
        return [{"params": [parameter for _, parameter in trained], "lr": config.train.lr, **common}]
    fast = [parameter for name, parameter in trained if "lora_B" in name or "lora_embedding_B" in name]
    slow = [parameter for name, parameter in trained if not ("lora_B" in name or "lora_embedding_B" in name)]
    rates = ((slow, config.train.lr), (fast, config.train.lr * ratio))
    return [{"params": parameters, "lr": rate, **common} for parameters, rate in rates if parameters]


def _lora_config(model: Model, lora: LoraSettings, tokens: Sequence[int]) -> LoraConfig:
    return LoraConfig(
        **_low_rank(model, lora),
        lora_alpha=_alpha(lora),
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        fan_in_fan_out=_has_conv1d(model),
        init_lora_weights="gaussian" if lora.init == "gaussian" else True,
        trainable_token_indices=_token_rows(model, sorted(tokens)),
    )


def _is_tied(model: Model) -> bool:
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def _token_rows(model: Model, ids: list[int]) -> dict[str, list[int]] | None:
    """The rows of the embedding to train, and those of the output head where it has its own."""
    layers = [model.get_input_embeddings()] + ([] if _is_tied(model) else [model.get_output_embeddings()])
    names = [next(name for name, module in model.named_modules() if module is layer) for layer in layers]
    return dict.fromkeys(names, ids) if ids else None


def _low_rank(model: Model, lora: LoraSettings) -> dict[str, Any]:
    return {
        **_modules(model, lora),
        "r": lora.r,
        "rank_pattern": dict(lora.rank_pattern),
        "alpha_pattern": {name: _whole(value) for name, value in lora.alpha_pattern.items()},
        "layers_to_transform": lora.layers,
    }


def _modules(model: Model, lora: LoraSettings) -> dict[str, Any]:
    targets: Any = None if lora.targets == "auto" else lora.targets
    if targets == "all-linear" and lora.layers is not None:
        targets = linear_names(model)  # PEFT takes layers beside names only
    saved = lora.modules_to_save or None
    return {"task_type": TASK, "target_modules": targets, "exclude_modules": lora.exclude or None, "modules_to_save": saved}


def _ia3_config(model: Model, lora: LoraSettings) -> IA3Config:
    """IA3 scales what goes into feed-forward modules and what comes out of others; PEFT knows which is which by name."""
    chosen = _modules(model, lora)
    if chosen["target_modules"] == "all-linear":
        chosen["target_modules"] = linear_names(model)
    inner = [name.rpartition(".")[2] for name in FEEDFORWARD.get(model.config.model_type, [])]
    feedforward = [name for name in chosen["target_modules"] or () if name.rpartition(".")[2] in inner]
    return IA3Config(
        **chosen,
        feedforward_modules=feedforward if chosen["target_modules"] else None,
        fan_in_fan_out=_has_conv1d(model),
    )


def _has_conv1d(model: Model) -> bool:
    return any(isinstance(module, Conv1D) for module in model.modules())


def linear_names(model: Model) -> list[str]:
    """The last parts of the names of the linear modules, without the output head."""
    head = model.get_output_embeddings()
    linear = (nn.Linear, Conv1D)
    named = {name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, linear) and one is not head}
    return sorted(named)


def _linear_names(model: Model) -> str:
    return f"its linear modules are {', '.join(linear_names(model))}"


def _alpha(lora: LoraSettings) -> int | float:
    return _whole(lora.chosen_alpha)


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _keep_masters(model: Model) -> None:
    """Hold what is trained in float32. Modules that are trained whole compute in it too, and answer in the base's type."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for copy in module.modules_to_save.values():
                _compute_in_float32(copy.float(), model.dtype)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def _compute_in_float32(module: nn.Module, dtype: torch.dtype) -> None:
    def widen(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))
