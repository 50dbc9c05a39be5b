"""Flattened batches through a model: logits where they are needed, the loss, and the proof that rows stay apart."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adreg.errors import AdregError, UnsupportedError
from adreg.train import attention
from adreg.train.batch import Batch, flatten, token_counts
from adreg.train.encode import IGNORED, Example
from adreg.train.model import Model

SINGLE = "single"
PROBED_TOKENS = 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # mean difference, in standard deviations of the logits


def logits_at(model: Model, batch: Batch) -> Tensor:
    """Logits (N, vocabulary) at the positions that `keep` marks, in the model's type."""
    rows = {}
    if shares_prefix(model):
        grid = attention.Grid(batch["slots"], batch["rows"], batch["width"], batch["prefix"])
        rows = {"row_grid": grid}
    out = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=batch["keep"],
        use_cache=False,
        **rows,
    )
    return out.logits.reshape(-1, out.logits.shape[-1])


def summed_loss(model: Model, batch: Batch) -> Tensor:
    """The cross-entropy in float32, summed over the learned tokens of `batch`."""
    return F.cross_entropy(logits_at(model, batch).float(), batch["targets"], reduction="sum")


def mean_loss(model: Model, batches: Sequence[Batch]) -> float:
    """The loss for each learned token of `batches`, in evaluation mode. Raises `AdregError` when it is no number."""
    model.eval()
    with torch.no_grad():
        total = sum(float(summed_loss(model, to_device(batch, model.device))) for batch in batches)
    if not math.isfinite(total):
        raise AdregError(f"the loss on the held-out rows is {total}")
    return total / token_counts(batches)[1]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def choose_attention(model: Model, examples: Sequence[Example]) -> str:
    """Set the fastest attention that keeps flattened rows apart, proven on two of `examples`; returns its name.

    `adreg_rows`, else what transformers does with restarting positions (`sdpa`), else `single`: one row at a time.
    Raises `UnsupportedError` for a model that cannot compute logits at chosen positions.
    """
    _check_signature(model)
    model.eval()
    base, stock = model.get_base_model(), model.config._attn_implementation
    probes = [_probe(example) for example in (examples[0], examples[-1])]
    alone = torch.cat([_probed(model, [probe], False) for probe in probes])
    for name in ([attention.register()] if _is_plain_causal(model) else []) + [stock]:
        base.set_attn_implementation(name)
        if _keeps_apart(model, probes, alone):
            return str(name)
    return SINGLE


def shares_prefix(model: Model) -> bool:
    """Whether the attention that is set can compute a common beginning of rows once."""
    return bool(model.config._attn_implementation == attention.NAME)


def _check_signature(model: Model) -> None:
    missing = {"position_ids", "logits_to_keep"} - set(inspect.signature(model.get_base_model().forward).parameters)
    if missing:
        kind = type(model.get_base_model()).__name__
        raise UnsupportedError(f"training a {kind}, which takes no {' and no '.join(sorted(missing))},", "try another base")


def _is_plain_causal(model: Model) -> bool:
    """Whether every layer attends to all earlier tokens with a plain softmax."""
    config = model.config.get_text_config()
    return not any(getattr(config, field, None) for field in ("sliding_window", "attn_logit_softcapping"))


def _keeps_apart(model: Model, probes: list[Example], alone: Tensor) -> bool:
    """Whether two flattened rows give the logits they give alone, and the second none of the first's influence."""
    share = shares_prefix(model)
    together = _probed(model, probes, share)
    start, second = len(probes[0].ids) // 2, probes[0].trained
    changed = np.concatenate([probes[0].ids[:start], probes[0].ids[start:][::-1]])
    other = _probed(model, [replace(probes[0], ids=changed), probes[1]], share)
    if not torch.equal(together[second:], other[second:]):
        return False
    return bool((together - alone).abs().mean() <= TOLERANCE[model.dtype] * alone.std())


def _probe(example: Example) -> Example:
    """The first tokens of `example`, the second half of them learned."""
    ids = example.ids[:PROBED_TOKENS]
    return replace(example, ids=ids, labels=np.where(np.arange(len(ids)) < max(len(ids) // 2, 1), IGNORED, ids))


def _probed(model: Model, examples: list[Example], share: bool) -> Tensor:
    with torch.no_grad():
        return logits_at(model, to_device(flatten(examples, share), model.device)).float()
