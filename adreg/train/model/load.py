"""The model that is trained: a frozen base in its working type with float32 adapter weights on it. Knows no data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject
from adreg.train.config import TrainConfig
from adreg.train.data.encode import Example
from adreg.train.model.adapters import Model, as_parent, attach, continue_training, parameter_groups
from adreg.train.model.bases import LoadedAs, loaded_as, open_trainable
from adreg.train.model.tokens import prompt_ids, token_ids

__all__ = [
    "Counts",
    "Model",
    "check_trainable",
    "choose_dtype",
    "count_trainable",
    "load_model",
    "parameter_groups",
    "trainable_parameters",
]
HUSHED = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT asks for a property that transformers renamed
    "Model has `tie_word_embeddings=True`",  # what it warns of is a merge by PEFT
    "Model with `tie_word_embeddings=True`",
)


class Counts(NamedTuple):
    """The parameters that are trained, and all of them, those of the adapter included."""

    trainable: int
    total: int


def choose_dtype(precision: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU or CPU that computes in it natively, else float32."""
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def load_model(base: Path, config: TrainConfig, examples: Iterable[Example] = (), parent: Path | None = None) -> Model:
    """The checkpoint in `base` with a fresh adapter, or with the one in the folder `parent`, to be trained further.

    Weights of the right type stay in their file, which is mapped into memory. `examples` are what init eva looks at.
    Raises `UsageError` for targets or counts that do not fit it, `UnsupportedError` for bases that cannot be trained.
    """
    checkpoint = open_trainable(base)
    with quiet():
        model = _load_base(checkpoint, config)
        if parent is not None:
            adapted = continue_training(model, parent, config.lora.dropout)
        else:
            adapted = attach(model, config, examples, prompt_ids(checkpoint, config), token_ids(checkpoint, config))
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


def count_trainable(config_json: JsonObject, config: TrainConfig, parent: Path | None = None) -> Counts:
    """What `config` trains on a base with this config.json, counted on shapes alone: no weight is read or made.

    `parent` is the folder of the adapter whose training is continued.
    """
    known = loaded_as(config_json, config.base)
    if known.remote_code:
        raise UnsupportedError("counting the parameters of a base with its own code without loading it")
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(known))
        adapted = as_parent(model, parent) if parent else attach(model, _shapes_only(config), tokens=_places(config))
    return Counts(trainable_parameters(adapted), sum(parameter.numel() for parameter in adapted.parameters()))


def _shapes_only(config: TrainConfig) -> TrainConfig:
    """`config` without a beginning that looks at weights, which decides no shape."""
    return config.model_copy(update={"lora": config.lora.model_copy(update={"init": "default"})})


def _places(config: TrainConfig) -> range:
    return range(len(config.lora.new_tokens))


def _config(known: LoadedAs) -> Any:
    return AutoConfig.for_model(**{key: value for key, value in known.config.items() if key != "transformers_version"})


def _load_base(base: Checkpoint, config: TrainConfig) -> Any:
    known = loaded_as(base.config, config.base)
    settings: dict[str, Any] = {
        "dtype": choose_dtype(config.train.precision),
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": known.remote_code,
        "output_loading_info": True,
    }
    if known.model_type != base.model_type:
        settings["config"] = _config(known)
    if config.base.quantise == "nf4":
        settings |= _quantised()
    model, info = AutoModelForCausalLM.from_pretrained(base.folder, **settings)
    if info["missing_keys"]:
        raise FormatError(base.folder, f"lacks the model's weight {min(info['missing_keys'])!r}", "B-WGT-1")
    if known.normalised_head:
        _normalise(model.get_output_embeddings())
    return model if config.base.quantise == "nf4" else model.to("cuda" if torch.cuda.is_available() else "cpu")


def _normalise(head: Any) -> None:
    """Divide each row of the output head by its length, as NormHead does whenever it runs."""
    rows = torch.nn.functional.normalize(head.weight.data.float(), dim=-1)
    head.weight = torch.nn.Parameter(rows.to(head.weight.dtype), requires_grad=False)


def _quantised() -> dict[str, Any]:
    """Settings that round the base to NF4 with bfloat16 arithmetic (QLoRA, arXiv 2305.14314)."""
    if not torch.cuda.is_available():
        raise UnsupportedError("base.quantise nf4 without an NVIDIA GPU", "remove base.quantise: the CPU trains in bf16")
    from transformers import BitsAndBytesConfig

    rounding = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": torch.bfloat16, "quantization_config": rounding, "device_map": {"": torch.cuda.current_device()}}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loader's own progress bar and without what PEFT says about things that adreg has looked after."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in HUSHED:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
