"""The prompts that a run is asked before and after, laid out exactly as its rows are. Knows rows and tokens, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adreg.train.config import TrainConfig
from adreg.train.data.encode import IGNORED, Encoder, Example
from adreg.train.data.prepare import Prepared
from adreg.train.data.turns import Turn

FROM_ROWS, BEGINNING, SHORT, SEEN = 4, 12, 3, 16
SPEAKERS = ("user", "human", "assistant", "model", "system")


class Prompt(NamedTuple):
    """A prompt as a person reads it, and the ids that the model is given."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """What is asked, the ids of the tokens that end an answer, and the encoder that makes them text again."""

    asked: tuple[Prompt, ...]
    stops: frozenset[int]
    encoder: Encoder


def eval_prompts(config: TrainConfig, data: Prepared, most: int) -> Prompts:
    """The first `most` of `eval.prompts`, or else the prompts of a few held-out rows; none where there are neither."""
    encoder = Encoder(data.tokenizer)
    if config.eval.prompts:
        asked = [Prompt(text, _laid_out(encoder, config, data.template, text)) for text in config.eval.prompts[:most]]
    else:
        rows = [data.held_out[place] for place in range(min(SEEN, len(data.held_out)))] if most else []
        found = [_of_row(encoder, getattr(row, "chosen", row)) for row in rows]
        asked = list({prompt.ids: prompt for prompt in found}.values())[:FROM_ROWS]
    return Prompts(tuple(asked), frozenset(_stops(encoder, data.train)), encoder)


def _laid_out(encoder: Encoder, config: TrainConfig, template: str, prompt: str) -> tuple[int, ...]:
    """`prompt` as a question by the template of the rows; where they are plain texts, as the beginning of one."""
    if not template:
        return tuple(encoder.tokenizer.encode(prompt, add_special_tokens=True).ids)
    system = [Turn("system", config.data.system)] if config.data.system else []
    text = encoder.renderer.prompt([*system, Turn("user", prompt)])
    return tuple(encoder.tokenizer.encode(text, add_special_tokens=False).ids)


def _of_row(encoder: Encoder, example: Example) -> Prompt:
    """The tokens before the first learned one; of a text, which is learned from its start, the first few."""
    learned = int(np.argmax(example.labels != IGNORED))
    end = learned if learned > SHORT else min(BEGINNING, max(len(example.ids) // 2, 1))
    ids = tuple(int(token) for token in example.ids[:end])
    return Prompt(_question(encoder, encoder.decode(ids)), ids)


def _question(encoder: Encoder, text: str) -> str:
    """What was asked last in a prompt, without the control tokens and the names of speakers that a template writes."""
    pieces = [piece.strip() for piece in encoder.renderer.controls.split(text)]
    said = [piece for piece in pieces if piece and piece.lower() not in SPEAKERS]
    if not said:
        return text.strip()
    first, newline, rest = said[-1].partition("\n")
    return rest.strip() if newline and first.strip().lower() in SPEAKERS else said[-1]


def _stops(encoder: Encoder, rows: Sequence[Any]) -> set[int]:
    """The end of text, and the control tokens that answers end with."""
    special = {id_ for id_, token in encoder.tokenizer.get_added_tokens_decoder().items() if token.special}
    firsts = [getattr(rows[place], "chosen", rows[place]) for place in range(min(SEEN, len(rows)))]
    ends = {int(example.ids[-1]) for example in firsts} & special
    eos = encoder.tokenizer.token_to_id(encoder.eos)
    return ends if eos is None else ends | {eos}
