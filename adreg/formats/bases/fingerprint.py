"""The ids of a base: what its weights are, by content, whatever the file names, shards, order or metadata.

Every id is `b3:` and the BLAKE3 of a domain-separated, length-prefixed message. `weights_id` ties the leaves of the
stored tensors to their raw names and `layout_id` their types and shapes; `content_id` forgets names; `values_id`
compares after dequantising and rounding to bfloat16 and forgets storage; `arch_id` knows names and shapes only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from adreg.errors import FormatError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.leaves import (
    Leaf,
    LeafCache,
    digest,
    dump_leaves,
    leaf_of,
    load_leaves,
    packed_values,
    recall,
    remembered,
)
from adreg.formats.bases.modelconfig import config_id, ties_embeddings
from adreg.formats.canonical import OUTPUT_HEAD, canonical_json, canonical_name, canonical_names, is_buffer
from adreg.formats.safetensors import SafetensorsFile
from adreg.formats.text.templates import rendering
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.progress import SILENT, Progress, Task

LEAVES, PACKED, TOKENS, MEANING = "b3.leaf.v1", "b3.packed.v1", "b3.tok.v1", "b3.tplsem.v1"
LATER = ("layout_id", "vocab_id", "tpl_sem")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


@dataclass(frozen=True)
class BaseIds:
    """The ids of a base card; `None` where the files for it are missing, or adreg did not know the id yet."""

    arch_id: str
    weights_id: str
    content_id: str
    values_id: str
    cfg_id: str
    tok_id: str | None
    tpl_id: str | None
    layout_id: str | None = None
    vocab_id: str | None = None
    tpl_sem: str | None = None

    def differing(self, others: BaseIds) -> list[str]:
        """Names of the ids that `others` does not share; those that these, made by an older adreg, lack do not count."""
        later = [name for name in LATER if getattr(self, name) is None]
        return [name for name, value in vars(self).items() if name not in later and value != getattr(others, name)]


@dataclass(frozen=True)
class _Parameter:
    """A weight of the model: `values` is its hash as bfloat16, `parts` the raw names that it is stored under."""

    shape: tuple[int, ...]
    values: str
    parts: tuple[str, ...]


def fingerprint(
    base: Checkpoint, cache: LeafCache | None = None, progress: Progress = SILENT
) -> tuple[BaseIds, dict[str, Leaf]]:
    """The ids of `base` and the leaf of every stored tensor by raw name. Reads every byte that `cache` does not know."""
    with _meaning(base.tokenizer, cache) as meaning:
        tok_id, vocab_id = _token_ids(base.tokenizer, cache)  # on one core, while the template renders on another
        leaves = _leaves(base, cache, progress)
        parameters = _parameters(base, leaves, _packed_values(base, leaves, cache, progress))
        ids = BaseIds(
            arch_id=_architecture_id(parameters),
            weights_id=digest("adreg.w.v1", *_fields((name, leaf.stored) for name, leaf in leaves.items())),
            content_id=digest("adreg.c.v1", *sorted(leaves[part].stored for part in _parts(parameters.values()))),
            values_id=digest("adreg.v.v1", *_fields((name, parameter.values) for name, parameter in parameters.items())),
            cfg_id=_config_id(base),
            tok_id=tok_id,
            tpl_id=base.tokenizer.tpl_id,
            layout_id=_layout_id(base),
            vocab_id=vocab_id,
            tpl_sem=meaning(),
        )
    return ids, leaves


def _config_id(base: Checkpoint) -> str:
    try:
        return config_id(base.config)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(base.folder / "config.json", f"is no configuration of a model: {error}", "B-CFG-0") from error


def _architecture_id(parameters: Mapping[str, _Parameter]) -> str:
    """Canonical names and shapes, without storage types, buffers or a tied head's copy."""
    shapes = sorted([name, list(parameter.shape)] for name, parameter in parameters.items())
    return digest("adreg.arch.v1", canonical_json(shapes))


def _layout_id(base: Checkpoint) -> str:
    """Raw names, storage types and shapes: what the headers alone can tell."""
    layout = sorted([name, view.dtype, list(view.shape)] for name, view in base.items())
    return digest("adreg.layout.v1", canonical_json(layout))


def _parts(parameters: Iterable[_Parameter]) -> set[str]:
    return {part for parameter in parameters for part in parameter.parts}


def _leaves(base: Checkpoint, cache: LeafCache | None, progress: Progress) -> dict[str, Leaf]:
    leaves: dict[str, Leaf] = {}
    with progress.task("fingerprint", sum(view.nbytes for view in base.values()), "B") as task:
        for shard in base.shards:
            make = partial(_read_leaves, shard, task)
            leaves |= load_leaves(remembered(cache, shard.path, shard.status, LEAVES, make))
    return leaves


def _read_leaves(shard: SafetensorsFile, task: Task) -> str:
    leaves: dict[str, Leaf] = {}
    for name, view in shard.items():
        leaves[name] = leaf_of(view)
        task.advance(view.nbytes, f"{shard.path.name}: {name}")
    return dump_leaves(leaves)


def _packed_values(base: Checkpoint, leaves: Mapping[str, Leaf], cache: LeafCache | None, progress: Progress) -> dict[str, str]:
    """The values of every quantised weight by logical name; remembered for the same stored bytes and configuration."""
    if not base.packed:
        return {}
    inputs = [[name, list(item.shape), [leaves[part].stored for part in item.parts]] for name, item in base.packed.items()]
    algorithm = f"{PACKED}:{digest(canonical_json(base.config), canonical_json(sorted(inputs)))}"
    make, first = partial(_dequantise, base, progress), base.shards[0]
    found: dict[str, str] = json.loads(remembered(cache, first.path, first.status, algorithm, make))
    return found


def _dequantise(base: Checkpoint, progress: Progress) -> str:
    values: dict[str, str] = {}
    with progress.task("dequantise", sum(math.prod(item.shape) for item in base.packed.values())) as task:
        for name, item in base.packed.items():
            values[name] = packed_values(item, [base[part] for part in item.parts])
            task.advance(math.prod(item.shape), name)
    return json.dumps(values)


def _parameters(base: Checkpoint, leaves: Mapping[str, Leaf], packed: Mapping[str, str]) -> dict[str, _Parameter]:
    """The model's own weights by canonical name: no buffers, no side tensors, no copy of tied embeddings."""
    hidden = {part for item in base.packed.values() for part in item.parts}
    plain = [name for name in base if name not in hidden and not is_buffer(name)]
    found = {name: _Parameter(base[name].shape, leaves[name].values, (name,)) for name in plain}
    found |= {name: _Parameter(item.shape, packed[name], item.parts) for name, item in base.packed.items()}
    embeddings = {parameter.values for name, parameter in found.items() if canonical_name(name) in EMBEDDINGS}
    heads = [name for name in found if canonical_name(name) == OUTPUT_HEAD]
    for name in heads:
        if ties_embeddings(base.config) or found[name].values in embeddings:
            del found[name]
    return {canonical: found[name] for name, canonical in canonical_names(found).items()}


def _token_ids(tokenizer: TokenizerFiles, cache: LeafCache | None) -> tuple[str | None, str | None]:
    """`tok_id` and `vocab_id`, through the cache."""
    if not tokenizer.path.is_file():
        return tokenizer.tok_id, tokenizer.vocab_id
    found = remembered(cache, tokenizer.path, tokenizer.path.stat(), TOKENS, lambda: json.dumps(tokenizer.token_ids))
    tok_id, vocab_id = json.loads(found) or (None, None)
    return tok_id, vocab_id


@contextmanager
def _meaning(tokenizer: TokenizerFiles, cache: LeafCache | None) -> Iterator[Callable[[], str | None]]:
    """A function that says `tpl_sem`. What the cache does not know is rendered while the caller does other things."""
    if tokenizer.chat_template is None:
        yield lambda: None
        return
    path, inputs = tokenizer.template_path, [tokenizer.chat_template, tokenizer.special_tokens]
    algorithm, status = f"{MEANING}:{digest(canonical_json(inputs))}", path.stat()
    known = recall(cache, status, algorithm)
    if known is not None:
        yield lambda: known
        return
    with rendering(tokenizer.chat_template, tokenizer.special_tokens) as meaning:
        yield lambda: remembered(cache, path, status, algorithm, meaning)


def _fields(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [field for pair in sorted(pairs, key=lambda pair: pair[0].encode()) for field in pair]
