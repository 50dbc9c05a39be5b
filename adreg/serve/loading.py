"""From folders to an engine that can be started: loads the base once, and lets in only adapters that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adreg.errors import FormatError, MissingExtra, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.serve.catalog import Catalog, ServedAdapter
from adreg.serve.engine import Engine, Limits
from adreg.serve.fit import fit
from adreg.serve.lora import AdapterPool
from adreg.serve.runner import Runner
from adreg.serve.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EngineSettings:
    """`auto` is bfloat16 where the hardware computes it and float32 elsewhere; `context` may shorten the model's own."""

    max_running: int = 8
    max_waiting: int = 64
    context: int | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


def load_engine(
    base_folder: Path,
    base_name: str,
    base_digest: str,
    adapters: Sequence[ServedAdapter],
    settings: EngineSettings = EngineSettings(),
) -> Engine:
    """An engine for the base in `base_folder` and `adapters`, not yet started.

    Raises what `open_checkpoint` and `fit` raise, `ConflictError` for a name given twice, `MissingExtra` without torch.
    """
    _need_extra()
    checkpoint = open_checkpoint(base_folder)
    catalog = Catalog(base_name, base_digest, adapters)
    tokenizer = Tokenizer(checkpoint.folder)
    model = _load_model(checkpoint, settings)
    pool = AdapterPool()
    for served in adapters:
        pool.load(served.digest, fit(model, served.name, served.adapter))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    limits = Limits(settings.max_running, settings.max_waiting, _context(model, settings), vocabulary)
    return Engine(catalog, tokenizer, Runner(model, pool), _stop_ids(model, tokenizer), limits)


def _need_extra() -> None:
    for package in ("torch", "transformers", "fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtra(package, "serve")


def _load_model(checkpoint: Checkpoint, settings: EngineSettings) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, **safely)
    except ValueError as error:
        raise UnsupportedError(f"the architecture {checkpoint.architecture} ({checkpoint.model_type})") from error
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder,
        config=config,
        dtype=_dtype(settings.dtype, device),
        use_safetensors=True,
        output_loading_info=True,
        **safely,
    )
    if info["missing_keys"]:
        raise FormatError(checkpoint.folder, f"lacks the model's weight {min(info['missing_keys'])!r}", "B-WGT-1")
    loaded: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return loaded


def _dtype(chosen: str, device: str) -> torch.dtype:
    import torch

    if chosen != "auto":
        dtype: torch.dtype = getattr(torch, chosen)
        return dtype
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _context(model: PreTrainedModel, settings: EngineSettings) -> int:
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if own is None and settings.context is None:
        raise UnsupportedError("a base without max_position_embeddings", "give the context length")
    return min(length for length in (own, settings.context) if length)


def _stop_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> frozenset[int]:
    """Every id that one of the base's files calls the end."""
    named: list[Any] = [tokenizer.eos, model.config.eos_token_id]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    ids = (one for entry in named for one in (entry if isinstance(entry, list | tuple) else [entry]))
    return frozenset(one for one in ids if one is not None)
