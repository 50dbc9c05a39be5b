"""The files of a trained adapter as PEFT reads them on the plain base, and the chat template. Knows no training.

What a run's beginning took out of the base (PiSSA, OLoRA) is taken out of the saved adapter too, by the same identity as
PEFT's conversion: B A - B0 A0 is one LoRA of twice the rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.text.tokenizer import TokenizerFiles

if TYPE_CHECKING:
    from torch import Tensor

    from adreg.train.model.initial import Taken

A, B = "lora_A.weight", "lora_B.weight"
BEGINNINGS = {"init_lora_weights": True, "eva_config": None, "prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": None}
"""Fields that say how an adapter began: once trained it is what its tensors are, and loading must not begin it again."""


def write_adapter(
    folder: Path, model: Any, base_name: str, tokenizer: TokenizerFiles, state: Mapping[str, Tensor] | None = None
) -> None:
    """The adapter's PEFT files, naming the base by name and never by a path of this machine, and the chat template.

    The same weights give the same bytes. `state` is the model's state where its parameters are spread over processes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    from adreg.train.model.initial import ADAPTER, taken_from

    found = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    taken = taken_from(model)
    tensors = {name: tensor.detach().cpu() for name, tensor in _with_taken(found, taken).items()}
    save_file({name: tensors[name].contiguous().clone() for name in sorted(tensors)}, folder / WEIGHTS, {"format": "pt"})
    _write(folder / CONFIG, config_json(model.peft_config[ADAPTER], base_name, bool(taken)))
    if tokenizer.chat_template is not None:
        _write(folder / "chat_template.jinja", tokenizer.chat_template)


def write_tokenizer(folder: Path, tokenizer: TokenizerFiles) -> None:
    """The tokenizer's files, for an adapter that trains tokens which the base's own tokenizer lacks."""
    for path in tokenizer.present():
        if path.name == "tokenizer.json":
            _write(folder / path.name, json.dumps(tokenizer.definition, ensure_ascii=False))
        elif path.name == "tokenizer_config.json":
            _write(folder / path.name, path.read_text(encoding="utf-8"))


def config_json(config: Any, base_name: str, doubled: bool) -> str:
    """adapter_config.json for PEFT's `config`; `doubled` where every rank was doubled by what the beginning took."""
    values = {name: _plain(value) for name, value in asdict(config).items() if name != "runtime_config"}
    values |= {name: value for name, value in BEGINNINGS.items() if name in values}
    values |= {"base_model_name_or_path": base_name, "inference_mode": True}
    if doubled:
        factor = 2**0.5 if values["use_rslora"] else 2  # keeps alpha / sqrt(r), or alpha / r, as it was
        values["r"], values["lora_alpha"] = 2 * values["r"], factor * values["lora_alpha"]
        values["rank_pattern"] = {name: 2 * rank for name, rank in values["rank_pattern"].items()}
        values["alpha_pattern"] = {name: factor * alpha for name, alpha in values["alpha_pattern"].items()}
    return json.dumps(values, indent=2, sort_keys=True)


def _with_taken(state: Mapping[str, Tensor], taken: Mapping[str, Taken]) -> dict[str, Tensor]:
    """`state` with A above A0 and B beside -B0 in every module of `taken`."""
    import torch

    found = dict(state)
    for module, factors in taken.items():
        a, b = f"{module}.{A}", f"{module}.{B}"
        found[a] = torch.cat([found[a].cpu(), factors.a])
        found[b] = torch.cat([found[b].cpu(), -factors.b], 1)
    return found


def _plain(value: Any) -> Any:
    """`value` as JSON holds it: sets in order, names instead of enumerations."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return getattr(value, "value", value)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
