"""The rows that all trainers see, written in the form that each takes. Knows no trainer and no tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SEED = 0


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str


def emoji_pairs() -> list[Pair]:
    """The demo's Chinese questions, each answered in a line of words and emoji."""
    lines = (ROOT / "examples" / "emoji-zh.jsonl").read_text().splitlines()
    return [Pair(row["question"], row["answer_zh"]) for row in map(json.loads, lines)]


def chatterbot_pairs(corpus: Path) -> list[Pair]:
    """The English questions of the package chatterbot-corpus, each with its first answer, in an order drawn once."""
    files = sorted((corpus / "chatterbot_corpus" / "data" / "english").glob("*.yml"))
    talks = [talk for file in files for talk in yaml.safe_load(file.read_text())["conversations"] if len(talk) > 1]
    pairs = dict.fromkeys(Pair(str(talk[0]), str(talk[1])) for talk in talks)
    return random.Random(SEED).sample(list(pairs), len(pairs))


def distinct(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` different pairs: a question with the answers of one to three others."""
    dice = random.Random(SEED)
    drawn: dict[Pair, None] = {}
    while len(drawn) < count:
        question, *answers = dice.sample(pairs, dice.randint(2, 4))
        drawn[Pair(question.question, " ".join(one.answer for one in answers))] = None
    return list(drawn)


Form = Callable[[Pair], dict[str, Any]]


def qa_zh(pair: Pair) -> dict[str, Any]:
    return {"question": pair.question, "answer_zh": pair.answer}


def qa(pair: Pair) -> dict[str, Any]:
    return {"question": pair.question, "answer": pair.answer}


def messages(pair: Pair) -> dict[str, Any]:
    return {"messages": [_turn("user", pair.question), _turn("assistant", pair.answer)]}


def prompt_completion(pair: Pair) -> dict[str, Any]:
    """TRL's form whose answers alone are learned."""
    return {"prompt": [_turn("user", pair.question)], "completion": [_turn("assistant", pair.answer)]}


def write(path: Path, pairs: Iterable[Pair], form: Form) -> Path:
    path.write_text("".join(json.dumps(form(pair), ensure_ascii=False) + "\n" for pair in pairs))
    return path


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
