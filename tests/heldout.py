"""How well a model knows answers that it was not trained on. Knows transformers' models, not who trained them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NEW_TOKENS = 64


@dataclass(frozen=True)
class Loss:
    """Held-out losses in nats: of each answer's tokens without its end, (rows,); and of the token that ends it, the mean."""

    answers: Tensor
    stop: float

    @property
    def mean(self) -> float:
        return float(self.answers.mean())

    def __str__(self) -> str:
        return f"{self.mean:.1f} nats an answer, {self.stop:.2f} its end"


def loss_of(model: Any, tokenizer: Any, asked: Sequence[tuple[str, str]]) -> Loss:
    """The loss of `asked`, pairs of a prompt as the model is given it and the right answer to it."""
    model.eval()
    found = [token_losses(model, tokenizer, prompt, answer) for prompt, answer in asked]
    return Loss(torch.stack([one[:-1].sum() for one in found]), float(torch.stack([one[-1] for one in found]).mean()))


def token_losses(model: Any, tokenizer: Any, prompt: str, answer: str) -> Tensor:
    """The loss of each token of the answer, (tokens,), the last of them that which ends it. A blank at the prompt's end is part
    of the answer's first token, and no token of its own."""
    found = tokenizer(prompt + answer + tokenizer.eos_token, return_offsets_mapping=True, add_special_tokens=False)
    first = next(token for token, (_, end) in enumerate(found["offset_mapping"]) if end > len(prompt.rstrip(" ")))
    ids = torch.tensor([found["input_ids"]])
    assert ids[0, -1] == tokenizer.eos_token_id
    with torch.inference_mode():
        scores = torch.log_softmax(model(input_ids=ids).logits[0, first - 1 : -1].float(), -1)
    return -scores.gather(1, ids[0, first:, None])[:, 0]


def generated(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[tuple[str, bool]]:
    """The greedy answers, in one batch: their texts, and whether they end by the stop token."""
    model.eval()
    stop = tokenizer.eos_token_id
    asked = tokenizer([prompt.rstrip(" ") for prompt in prompts], return_tensors="pt", padding=True)
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": stop, "pad_token_id": stop}
    rows = model.generate(**asked, **settings)[:, asked["input_ids"].shape[1] :].tolist()
    return [(tokenizer.decode(row, skip_special_tokens=True), stop in row) for row in rows]
