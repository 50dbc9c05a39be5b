"""Everything about base, method and parent that can be refused before a model is loaded, in a fraction of a second."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from adreg.errors import UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.train.config import TrainConfig
from adreg.train.model.bases import check_consent, loaded_as, open_trainable
from adreg.train.model.methods import check_method
from adreg.train.model.parents import check_parent
from adreg.train.model.targets import check_targets
from adreg.train.model.tokens import prompt_ids, with_tokens


def checked_base(folder: Path, base_name: str, config: TrainConfig, parent: Path | None = None) -> Checkpoint:
    """The checkpoint to train on, whose tokenizer knows `lora.new_tokens`. Imports no torch, reads headers only.

    Raises `UsageError` for settings that do not go together or do not fit the base, `UnsupportedError` for bases that cannot
    be trained on, and what is wrong with the adapter in `parent`.
    """
    check_method(config)
    base = open_trainable(folder)
    check_consent(base, config, base_name)
    loaded_as(base.config, config.base)
    if config.base.quantise == "nf4" and find_spec("bitsandbytes") is None:
        raise UnsupportedError(
            "base.quantise nf4 without bitsandbytes", "pip install bitsandbytes where there is an NVIDIA GPU, or remove it"
        )
    if parent is None:
        check_targets(base, config)
        prompt_ids(base, config)
    else:
        check_parent(parent, base, config)
    return with_tokens(base, config) if config.lora.new_tokens else base
