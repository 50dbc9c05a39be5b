"""The record of a run: what went in, on what machine, what came out. Plain data that JSON holds."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

RUNNING = "running"


class StepLoss(NamedTuple):
    """One optimizer step: the mean loss of its learned tokens, the learning rate, the speed, the gradient's norm before it
    is clipped, the process's memory in bytes, and what else the objective tells, such as margins."""

    step: int
    loss: float
    lr: float
    tokens_per_s: float
    grad_norm: float | None = None
    rss: int | None = None
    more: dict[str, float] | None = None


class Evaluation(NamedTuple):
    """The loss on the held-out rows after `step` steps; `best` says whether no earlier one was lower."""

    step: int
    loss: float
    best: bool


class Sample(NamedTuple):
    """An eval prompt with what the base and the trained adapter answer to it, greedily, and whether each ended by itself.

    None where that one was not asked."""

    prompt: str
    before: str | None = None
    after: str | None = None
    stopped_before: bool | None = None
    stopped_after: bool | None = None


@dataclass(frozen=True)
class HeldOut:
    """The loss for each learned token of the held-out rows; None without such rows."""

    rows: int = 0
    base: float | None = None
    adapter: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run, running or ended; `asdict` of an ended one is `adreg.json`.

    `outcome` is running, finished, interrupted, stopped early, diverged or failed, and `reason` why where that is not plain.
    `code` is adreg's version and the git state of the working directory; `process` the pid and host; `parent` the adapter
    whose training is continued; `resumed` holds an entry for each time that the run went on from a checkpoint; `weights` is
    the digest of the adapter's file; `warnings` say what went wrong without ending the run.
    """

    id: str
    started: str
    base: dict[str, Any]
    config: dict[str, Any]
    config_id: str = ""
    recipe: str | None = None
    parent: dict[str, Any] | None = None
    data: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    seed: int = 0
    code: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    platform: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = RUNNING
    reason: str | None = None
    finished: str | None = None
    seconds: float = 0.0
    trainable: int = 0
    total: int = 0
    steps: int = 0
    planned_steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    weights: str | None = None
    eval: HeldOut = field(default_factory=HeldOut)
    warnings: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    losses: list[StepLoss] = field(default_factory=list)


def record_of(stored: Mapping[str, Any], **changes: Any) -> RunRecord:
    """The record of a run that begins again: what was stored, as far as this adreg knows it, with `changes`.

    What its steps told is kept elsewhere, and how it ended is open once more.
    """
    again: dict[str, Any] = {"outcome": RUNNING, "reason": None, "finished": None, "losses": [], "evaluations": []}
    known = {each.name: stored[each.name] for each in fields(RunRecord) if each.name in stored}
    held = known.get("eval") or {}
    samples = [Sample(*sample) for sample in known.get("samples") or []]
    return RunRecord(**{**known, **again, "eval": HeldOut(**held), "samples": samples, **changes})


def config_id(config: dict[str, Any]) -> str:
    """The SHA-256 of a configuration's canonical JSON: keys sorted, no spaces."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def new_id() -> str:
    """A name for a run: 12 hex digits, the second it began in and four drawn ones, so that names sort by time."""
    return f"{int(time.time()):08x}{uuid.uuid4().hex[:4]}"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
