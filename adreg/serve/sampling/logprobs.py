"""Log-probabilities of tokens, by the logits as the model gave them: no setting of the sampler changes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adreg.serve.generation import Logprob
from adreg.serve.sampling.heaviest import largest


def logprob(logits: NDArray[np.float32], token: int, top: int) -> Logprob:
    """log p of `token` and of the `top` likeliest ones by finite `logits` (vocabulary,); at equal p, the lower id first."""
    best = logits.max()
    # differences are exact enough in float32; their sum is not
    total = float(best) + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))
    ids = largest(logits, top) if top else np.arange(0)
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    return Logprob(float(logits[token]) - total, tuple((int(id_), float(logits[id_]) - total) for id_ in ids))


def prompt_logprobs(logits: NDArray[np.float32], next_ids: Sequence[int], top: int) -> list[Logprob]:
    """Those of `next_ids` (n,) by `logits` (n, vocabulary), each row of which precedes its id.

    Row by row: a row of a vocabulary fills the cache, and all rows at once would not.
    """
    return [logprob(row, token, top) for row, token in zip(logits, next_ids, strict=True)]
