"""The reference of every verification: transformers and PEFT, the adapters on their base, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adreg.export.changes.source import Source
from adreg.export.extras import need
from adreg.export.fold.folded import Folded
from adreg.export.indexmodel import register_index
from adreg.export.targets import config_changes
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.dtypes import Float32
from adreg.formats.text.chat_template import Message


@dataclass(frozen=True)
class Reference:
    """The tokenizer of a base as training sees it, and the base with its adapters."""

    base: Checkpoint
    sources: tuple[Source, ...]
    tokenizer: Any

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids, with the meaning of `LlamaCpp.tokenize`."""
        ids = self.tokenizer.encode(text, add_special_tokens=add_special, split_special_tokens=not parse_special)
        return [int(token) for token in ids]

    def render(self, messages: Sequence[Message], template: str) -> str | None:
        """The prompt that transformers makes of `messages`, or None where `template` refuses them."""
        from jinja2.exceptions import TemplateError

        try:
            prompt = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError:
            return None
        return str(prompt)

    def log_probabilities(self, ids: Sequence[int]) -> tuple[Float32, Float32]:
        """With the adapters and without: (len(ids), vocabulary) each; row i is the distribution after i + 1 ids."""
        with _quiet():
            model = adapted_model(self.base, self.sources)
        adapted = _log_probabilities(model, ids)
        if not self.sources:
            return adapted, adapted
        with model.disable_adapter():
            return adapted, _log_probabilities(model, ids)

    def merged_log_probabilities(self, ids: Sequence[int], folds: Mapping[str, Folded]) -> Float32:
        """What the folded weights give, in float32 and not rounded to any file's type: (len(ids), vocabulary)."""
        with _quiet():
            return _log_probabilities(merged_model(self.base, folds), ids)


def open_reference(base: Checkpoint, sources: tuple[Source, ...]) -> Reference:
    """The reference for `sources` on `base`. Raises `MissingExtra` without transformers or PEFT."""
    need("train", "torch", "transformers", "peft")
    from transformers import AutoTokenizer

    register_index()
    return Reference(base, sources, AutoTokenizer.from_pretrained(base.folder, local_files_only=True))


def adapted_model(base: Checkpoint, sources: Sequence[Source]) -> Any:
    """The base in float32 with every source as an active PEFT adapter at its weight, unmerged, in evaluation mode."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    if not sources:
        return model.eval()
    names = [f"source{i}" for i in range(len(sources))]
    with TemporaryDirectory() as place:
        folders = [_folder(source, Path(place) / name) for source, name in zip(sources, names, strict=True)]
        model = PeftModel.from_pretrained(model, folders[0], adapter_name=names[0])
        for folder, name in zip(folders[1:], names[1:], strict=True):
            model.load_adapter(folder, adapter_name=name)
    model.base_model.set_adapter(names)
    for name, source in zip(names, sources, strict=True):
        _scale(model, name, source.weight)
    return model.eval()


def merged_model(base: Checkpoint, folds: Mapping[str, Folded]) -> Any:
    """The base in float32 with the folded weights in the place of its own, in evaluation mode."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    for field, value in config_changes(base, folds).items():
        setattr(config, field, value)
    weights = {name: torch.tensor(fold.block(0, fold.shape[0])) for name, fold in folds.items()}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32).eval()


def _log_probabilities(model: Any, ids: Sequence[int]) -> Float32:
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
        values: Float32 = torch.log_softmax(logits.float(), dim=-1).numpy()
    return values


def _scale(model: Any, name: str, weight: float) -> None:
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and name in scaling:
            scaling[name] *= weight


def _folder(source: Source, folder: Path) -> Path:
    """The adapter as PEFT wants it: its two files under their usual names."""
    folder.mkdir()
    (folder / CONFIG).symlink_to(source.adapter.config.path.absolute())
    (folder / WEIGHTS).symlink_to(source.adapter.file.path.absolute())
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' progress bars and PEFT's advice stay off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
