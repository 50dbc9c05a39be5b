"""A base checkpoint as a transformers model, loaded safely: no code of its own, no pickles, no missing weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Dtype = Literal["auto", "bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]


def load_model(checkpoint: Checkpoint, dtype: Dtype = "auto", device: Device = "auto") -> PreTrainedModel:
    """The model of `checkpoint`, for inference. `auto` is bfloat16 where the hardware computes it, and CUDA where it is.

    Raises `UnsupportedError` for an architecture that transformers lacks, `FormatError` for missing weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, **safely)
    except ValueError as error:
        raise UnsupportedError(f"the architecture {checkpoint.architecture} ({checkpoint.model_type})") from error
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder,
        config=config,
        dtype=_fast_dtype(place) if dtype == "auto" else getattr(torch, dtype),
        use_safetensors=True,
        output_loading_info=True,
        **safely,
    )
    if info["missing_keys"]:
        raise FormatError(checkpoint.folder, f"lacks the model's weight {min(info['missing_keys'])!r}", "B-WGT-1")
    loaded: PreTrainedModel = model.to(place).eval().requires_grad_(False)
    return loaded


def _fast_dtype(device: str) -> torch.dtype:
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
