"""The model that is trained: a frozen base in its working type with float32 LoRA weights on it. Knows no data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from adreg.errors import UsageError
from adreg.train.config import LoraSettings, TrainConfig

Model = Any


def choose_dtype(precision: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU or CPU that computes in it natively, else float32."""
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def load_model(base: Path, config: TrainConfig) -> Model:
    """The checkpoint in `base` with a fresh adapter. Raises `UsageError` for targets or counts that do not fit it."""
    dtype = choose_dtype(config.train.precision)
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True, attn_implementation="sdpa")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.train.seed)
        try:
            adapted = get_peft_model(model, _peft_config(model, config.lora))
        except ValueError as error:
            raise UsageError(f"lora.targets does not fit this base: {error}", _linear_names(model)) from error
    check_trainable(adapted, config.expected_trainable)
    return adapted


def trainable_parameters(model: Model) -> int:
    """How many parameters are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_trainable(model: Model, expected: int | None) -> None:
    """Raise `UsageError` unless `model` trains the number of parameters that the recipe was written for."""
    found = trainable_parameters(model)
    if expected is not None and found != expected:
        raise UsageError(
            f"the recipe trains {expected:,} parameters and this base would train {found:,}: they do not belong together",
            "take the base that the recipe names, or --set expected_trainable=null",
        )


def _peft_config(model: Model, lora: LoraSettings) -> LoraConfig:
    alpha = int(lora.chosen_alpha) if lora.chosen_alpha.is_integer() else lora.chosen_alpha
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=None if lora.targets == "auto" else lora.targets,
        use_rslora=lora.rslora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def _linear_names(model: Model) -> str:
    linear = (torch.nn.Linear, Conv1D)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, linear)}
    return f"its linear modules are {', '.join(sorted(names))}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's own progress bar and without PEFT's note on a property that transformers renamed."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
