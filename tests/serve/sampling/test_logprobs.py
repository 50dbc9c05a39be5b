"""Log-probabilities of a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from adreg.serve.sampling.logprobs import prompt_logprobs


def test_each_row_tells_of_the_token_that_follows_it() -> None:
    import torch

    logits = np.random.default_rng(0).normal(0, 5, (7, 3000)).astype(np.float32)
    following = [5, 0, 2999, 17, 5, 5, 1]
    expected = torch.from_numpy(logits).double().log_softmax(-1)
    found = prompt_logprobs(logits, following, 3)
    assert [one.value for one in found] == pytest.approx(
        [float(expected[row, id_]) for row, id_ in enumerate(following)], abs=1e-6
    )
    for row, one in enumerate(found):
        values, ids = expected[row].topk(3)
        assert [id_ for id_, _ in one.top] == ids.tolist()
        assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-6)
