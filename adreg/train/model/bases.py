"""Which checkpoints can be trained on, and as what: natively, mapped to a class that computes the same, or by their own
code after consent. Knows configurations and files, no tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adreg.errors import UnsupportedError, UsageError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.gguf.header import is_gguf
from adreg.formats.strictjson import JsonObject
from adreg.train.config import BaseSettings, TrainConfig

LLAMA_FIELDS = frozenset(
    """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act
    max_position_embeddings initializer_range rms_norm_eps use_cache pad_token_id bos_token_id eos_token_id
    tie_word_embeddings rope_theta rope_scaling rope_parameters attention_bias attention_dropout mlp_bias pretraining_tp
    dtype torch_dtype
    """.split()  # noqa: SIM905 - one line a field would be a page
)
TOLD_ELSEWHERE = frozenset({"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path", "max_length"})
NORMALISED_HEAD = "norm_head"


@dataclass(frozen=True)
class LoadedAs:
    """How a base is loaded: `config` is config.json as `model_type` reads it, `normalised_head` whether the rows of its
    output head are to be divided by their length, and `remote_code` whether the base's own Python files run."""

    config: JsonObject
    normalised_head: bool = False
    remote_code: bool = False

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type"))


def open_trainable(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises `UnsupportedError` for a GGUF file or a quantised one, with what to do instead."""
    if is_gguf(folder):
        raise UnsupportedError(f"training on a GGUF file ({folder.name})", "train on the checkpoint that it was made from")
    base = open_checkpoint(folder)
    said = base.config.get("quantization_config")
    if isinstance(said, dict):
        name = str(said.get("quant_method", "a method it does not name"))
        raise UnsupportedError(
            f"training on a base quantised with {name} ({folder.name})",
            "train on the checkpoint that it was made from; on a GPU --set base.quantise=nf4 rounds it as it is loaded",
        )
    return base


def as_llama(config: JsonObject) -> LoadedAs:
    """An Index checkpoint (IndexForCausalLM): a Llama by its tensors' names and arithmetic, whose head may be normalised.

    Source: modeling_index.py beside the published weights, and the two public ports of it (PaddleFormers, exllamav2).
    Raises `UnsupportedError` for a field that neither knows.
    """
    known = LLAMA_FIELDS | TOLD_ELSEWHERE | {NORMALISED_HEAD}
    unknown = sorted(name for name, value in config.items() if name not in known and value not in (None, False, [], {}))
    if unknown:
        raise UnsupportedError(f"an Index base with {', '.join(unknown)}", "base.remote_code runs its own code")
    kept = {name: value for name, value in config.items() if name in LLAMA_FIELDS}
    untied = {"tie_word_embeddings": False, **kept}  # Index's default, where a Llama's is the same but older files say nothing
    return LoadedAs(
        {**untied, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}, bool(config.get(NORMALISED_HEAD, False))
    )


MAPPED: Mapping[str, Callable[[JsonObject], LoadedAs]] = {"index": as_llama, "IndexForCausalLM": as_llama}
"""Checkpoints with code of their own that a class of transformers computes too, by `model_type` or architecture."""


def loaded_as(config: JsonObject, settings: BaseSettings) -> LoadedAs:
    """How a base with this config.json is loaded: as transformers knows it, else mapped, else by its own code.

    Raises `UnsupportedError` for code of its own without consent.
    """
    model_type = str(config.get("model_type"))
    if settings.remote_code and config.get("auto_map"):
        return LoadedAs(config, remote_code=True)
    for name in (model_type, *_architectures(config)):
        if name in MAPPED:
            return MAPPED[name](config)
    if _is_native(model_type):
        return LoadedAs(config)
    if not config.get("auto_map"):
        raise UnsupportedError(f"a base of type {model_type!r}, which transformers does not know,")
    raise UnsupportedError(
        f"a base of type {model_type!r} that brings its own Python code",
        "read that code; then --set base.remote_code=true runs it, for this base",
    )


def check_consent(base: Checkpoint, config: TrainConfig, base_name: str) -> None:
    """Raise `UsageError` where `base.remote_code` was said of another base, and `UnsupportedError` where the code to run
    does not lie in this one's folder."""
    if not config.base.remote_code:
        return
    named = config.base.name
    if named is not None and not _is_same(named, base_name, base.folder):
        raise UsageError(
            f"base.remote_code was agreed to for {named}, and this run is on {base_name}",
            f"read the code in {base.folder}; then write base.name: {base_name} beside it",
        )
    mapping = base.config.get("auto_map")
    elsewhere = [str(value) for value in _values(mapping) if "--" in str(value)]
    if elsewhere:
        raise UnsupportedError(f"code of another repository ({elsewhere[0]})", "take a checkpoint that holds its own code")
    if mapping and not code_files(base.folder):
        raise UnsupportedError(f"remote code that is not there: {base.folder.name} holds no Python file")


def code_files(folder: Path) -> list[Path]:
    """The Python files beside a checkpoint."""
    return sorted(folder.glob("*.py"))


def remote_code_sha256(base: Checkpoint, config: TrainConfig) -> str | None:
    """The digest of the code that a run on `base` executes: of its files' names and digests; None where it runs none."""
    if not loaded_as(base.config, config.base).remote_code:
        return None
    told = "".join(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in code_files(base.folder))
    return f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"


def _architectures(config: JsonObject) -> list[str]:
    named = config.get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _is_native(model_type: str) -> bool:
    """Whether transformers has a class for it; read from its own list as text, since importing that imports torch."""
    from importlib.util import find_spec

    spec = find_spec("transformers")
    lists = [Path(place) / "models" / "auto" / "modeling_auto.py" for place in (spec and spec.submodule_search_locations) or ()]
    return any(f'("{model_type}",' in path.read_text(encoding="utf-8") for path in lists)


def _is_same(named: str, base_name: str, folder: Path) -> bool:
    def short(text: str) -> str:
        return text.rstrip("/").rpartition("/")[2].partition("@")[0].lower()

    return named in (base_name, str(folder)) or short(named) == short(base_name)


def _values(mapping: Any) -> Iterable[Any]:
    if not isinstance(mapping, dict):
        return ()
    return [one for value in mapping.values() for one in (value if isinstance(value, list) else [value])]
