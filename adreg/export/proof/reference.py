"""The reference of every verification: transformers and PEFT, the adapters on their base, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adreg.errors import UnsupportedError
from adreg.export.changes.source import Source
from adreg.export.extras import need
from adreg.export.fold.folded import Folded
from adreg.export.proof.corpus import PASSAGES
from adreg.export.proof.indexmodel import register_index
from adreg.export.proof.quiet import quiet
from adreg.export.targets import config_changes
from adreg.formats.adapters.adapter import CONFIG, WEIGHTS
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.dtypes import Float32
from adreg.formats.text.chat_template import Message

FIRST, POSITIONS = 8, 32
LOCAL = {"local_files_only": True, "trust_remote_code": False}
UNPROVEN = "write it unproven with --no-verify"


@dataclass(frozen=True)
class Passage:
    """A text as token ids. What follows each beginning of it, of one of `lengths`, is compared."""

    ids: tuple[int, ...]

    @property
    def lengths(self) -> range:
        return range(FIRST, len(self.ids))


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

    def passages(self) -> list[Passage]:
        """What every artifact is compared on."""
        texts = (self.tokenize(text, add_special=True, parse_special=True) for text in PASSAGES)
        return [Passage(tuple(ids[: FIRST + POSITIONS])) for ids in texts]

    def log_probabilities(self, passages: Sequence[Passage]) -> tuple[Float32, Float32]:
        """With the adapters and without: (positions of all passages, vocabulary) each."""
        with quiet(), _loading(self.base, self.sources):
            model = adapted_model(self.base, self.sources)
        adapted = _log_probabilities(model, passages)
        if not self.sources:
            return adapted, adapted
        with model.disable_adapter():
            return adapted, _log_probabilities(model, passages)

    def merged_log_probabilities(self, passages: Sequence[Passage], folds: Mapping[str, Folded]) -> Float32:
        """What the folded weights give, in float32 and not rounded to any file's type: (positions, vocabulary)."""
        with quiet(), _loading(self.base):
            model = merged_model(self.base, folds)
        return _log_probabilities(model, passages)


def open_reference(base: Checkpoint, sources: tuple[Source, ...]) -> Reference:
    """The reference for `sources` on `base`. Raises `MissingExtra` without transformers or PEFT, `UnsupportedError` for
    what they do not load; code that comes with a model is never run."""
    need("train", "torch", "transformers", "peft")
    from transformers import AutoConfig, AutoTokenizer

    register_index()
    with quiet(), _loading(base):
        AutoConfig.from_pretrained(base.folder, **LOCAL)
        return Reference(base, sources, AutoTokenizer.from_pretrained(base.folder, **LOCAL))


@contextmanager
def _loading(base: Checkpoint, sources: Sequence[Source] = ()) -> Iterator[None]:
    """Turn what transformers and PEFT raise over a model that they do not load into an `UnsupportedError`."""
    try:
        yield
    except Exception as error:
        subject = " and ".join(source.label for source in sources) or base.folder.name
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnsupportedError(f"verifying {subject}, which transformers does not load ({told}),", UNPROVEN) from error


def adapted_model(base: Checkpoint, sources: Sequence[Source]) -> Any:
    """The base in float32 with every source as an active PEFT adapter at its weight, unmerged, in evaluation mode."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, use_safetensors=True, **LOCAL)
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

    config = AutoConfig.from_pretrained(base.folder, **LOCAL)
    for field, value in config_changes(base, folds).items():
        setattr(config, field, value)
    weights = {name: torch.tensor(fold.block(0, fold.shape[0])) for name, fold in folds.items()}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32).eval()


def _log_probabilities(model: Any, passages: Sequence[Passage]) -> Float32:
    import torch

    rows = []
    with torch.inference_mode():
        for passage in passages:
            logits = model(input_ids=torch.tensor([passage.ids])).logits[0]
            compared = logits[[length - 1 for length in passage.lengths]]
            rows.append(torch.log_softmax(compared.float(), dim=-1).numpy())
    return np.concatenate(rows)


def _scale(model: Any, name: str, weight: float) -> None:
    """PEFT keeps a factor for every kind of adapter but VeRA, whose update is as many times its `vera_lambda_b`."""
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and name in scaling:
            scaling[name] *= weight
        vectors = getattr(module, "vera_lambda_b", {})
        if name in vectors:
            vectors[name].data *= weight


def _folder(source: Source, folder: Path) -> Path:
    """The adapter as PEFT wants it: its two files under their usual names."""
    folder.mkdir()
    (folder / CONFIG).symlink_to(source.adapter.config.path.absolute())
    (folder / WEIGHTS).symlink_to(source.adapter.file.path.absolute())
    return folder
