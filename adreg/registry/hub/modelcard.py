"""The model card of an adapter: what hubs index, how to use it, how it was trained, what it is tied to.

Everything in it comes from records, and from outside for all it knows: no value can become markup or front matter.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import adreg
from adreg.formats.bases.fingerprint import BaseIds
from adreg.formats.strictjson import JsonObject
from adreg.registry.hub.card import compose_card, marked
from adreg.registry.hub.reference import is_commit, is_repo

LOSS_PICTURE = "loss.svg"
SHOWN = 200
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,95}", re.ASCII)
_MARKUP = re.compile(r"([\\`*_\[\]|~#!])")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. `repo`: where it will be on the hub. `digest`: of the version. `summary`: as `adreg show` tells it.

    `base_model` is the hub's id of the base where that is known; `base_name` is shown where it is not.
    `run` is a checked run record; `files` are the names that are published with the card.
    """

    repo: str
    digest: str
    summary: JsonObject
    files: Sequence[str]
    base_name: str
    base_model: str | None = None
    base_revision: str | None = None
    base_ids: BaseIds | None = None
    run: JsonObject | None = None
    license: str | None = None
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()


def hub_base(origin: str) -> tuple[str | None, str | None]:
    """The hub's id of a base and its commit, each None where `origin` (as a base records it) does not say it."""
    repo, _, revision = origin.partition("@")
    if "/" not in repo or not is_repo(repo):
        return None, None
    return repo, revision if is_commit(revision) else None


def model_card(facts: CardFacts) -> str:
    """README.md for `facts`: YAML front matter, then one section between adreg's markers."""
    family = _family(facts.summary)
    parts = [
        f"# {as_markdown(facts.repo.rpartition('/')[2])}",
        f"{'An' if family.startswith(('A', 'I', 'O')) else 'A'} {family} adapter for {_base(facts)}: {_shape(facts.summary)}.",
        _usage(facts),
    ]
    if facts.run:
        parts += ["## Training", table(("setting", "value"), _training(facts.run))]
        parts += [table(("data", "rows", "SHA-256"), _data(facts.run)), *_results(facts.run)]
    if LOSS_PICTURE in facts.files:
        parts.append(f"![The loss over the steps]({LOSS_PICTURE})")
    parts += ["## Provenance", table(("what", "id"), _provenance(facts))]
    return compose_card(_front(facts), marked("\n\n".join(part for part in parts if part)))


def _front(facts: CardFacts) -> dict[str, Any]:
    """What the hub indexes. Ids and tags that the hub would refuse are left out."""
    front: dict[str, Any] = {}
    if facts.base_model and is_repo(facts.base_model):
        front |= {"base_model": facts.base_model, "base_model_relation": "adapter"}
    front |= {"library_name": "peft"}
    if facts.run:
        front["pipeline_tag"] = "text-generation"
    front["tags"] = list(
        dict.fromkeys([_family(facts.summary).lower().replace(" ", "-"), "adreg", *filter(_TAG.fullmatch, facts.tags)])
    )
    if facts.license and _TAG.fullmatch(facts.license):
        front["license"] = facts.license
    datasets = [name for name in facts.datasets if is_repo(name)]
    return {**front, "datasets": datasets} if datasets else front


def _base(facts: CardFacts) -> str:
    if facts.base_model and is_repo(facts.base_model):
        return f"[{as_markdown(facts.base_model)}](https://huggingface.co/{facts.base_model})"
    return f"**{as_markdown(facts.base_name) or 'an unknown base'}**"


def _shape(summary: JsonObject) -> str:
    rank, alpha, targets = summary.get("rank"), summary.get("alpha"), summary.get("targets")
    scaling = "α/√r" if summary.get("rslora") else "α/r"
    sizes = [f"rank {as_markdown(rank)}"] * bool(rank) + [f"α {as_markdown(alpha)} (scaling {scaling})"] * bool(alpha)
    on = f"on {', '.join(map(as_markdown, targets))}" if isinstance(targets, list) and targets else ""
    shape = f"{', '.join(sizes)} {on}".strip()
    return ", ".join(filter(None, [shape, f"{as_markdown(summary.get('parameters'))} parameters"]))


def _family(summary: JsonObject) -> str:
    return as_markdown(summary.get("family", "LoRA"))


def _usage(facts: CardFacts) -> str:
    known = facts.base_model if facts.base_model and is_repo(facts.base_model) else None
    pinned = f", revision={json.dumps(facts.base_revision)}" if known and is_commit(facts.base_revision or "") else ""
    base = f"{json.dumps(known or 'FOLDER-OF-THE-BASE')}{pinned}"
    lines = [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base})",
        f"tokenizer = AutoTokenizer.from_pretrained({base})",
        f"model = PeftModel.from_pretrained(base, {json.dumps(facts.repo if is_repo(facts.repo) else 'FOLDER')})",
        "```",
    ]
    return "\n".join(lines)


def _training(run: JsonObject) -> list[tuple[str, Any]]:
    """The hyper-parameters that the run recorded, under their own names, and what came of them."""
    config = _object(run.get("config"))
    chosen = [
        (f"{section}.{name}", value) for section in ("lora", "train") for name, value in _object(config.get(section)).items()
    ]
    told = {"rows": "rows", "steps": "steps", "trained_tokens": "learned tokens", "trainable": "trained parameters"}
    counted = [(title, run.get(name)) for name, title in told.items()]
    return [(name, value) for name, value in (*chosen, *counted, ("seconds", run.get("seconds"))) if value is not None]


def _results(run: JsonObject) -> list[str]:
    held = _object(run.get("eval"))
    base, adapter = held.get("base"), held.get("adapter")
    if not isinstance(base, int | float) or not isinstance(adapter, int | float):
        return []
    rows = [("base alone", f"{base:.4f}"), ("with this adapter", f"{adapter:.4f}")]
    return ["## Results", table((f"held-out loss, {as_markdown(held.get('rows'))} rows", "nats a token"), rows)]


def _data(run: JsonObject) -> list[tuple[Any, ...]]:
    """The files the run learned from: their last name only, never where they lay."""
    files = run.get("data")
    entries = [_object(file) for file in files] if isinstance(files, list) else []
    return [(_last(file.get("path")), file.get("used"), str(file.get("sha256"))[:64]) for file in entries]


def _last(path: Any) -> str:
    return re.split(r"[/\\]", str(path))[-1]


def _provenance(facts: CardFacts) -> list[tuple[str, Any]]:
    ids = vars(facts.base_ids) if facts.base_ids else {}
    rows: list[tuple[str, Any]] = [("adapter", facts.digest)]
    rows += [(f"base {name}", value) for name, value in ids.items() if value]
    rows += [("base revision", facts.base_revision)] if facts.base_revision else []
    if facts.run:
        rows += [("run", facts.run.get("id")), ("started", facts.run.get("started"))]
        rows += [(f"{name}, at training", value) for name, value in _object(facts.run.get("versions")).items()]
    return [*rows, ("adreg", adreg.__version__)]


def table(heads: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    """A Markdown table (GitHub's extension); empty without rows."""
    if not rows:
        return ""
    lines = [heads, ("---",) * len(heads), *(tuple(as_markdown(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(value: Any) -> str:
    """`value` as one line of Markdown that shows it as it is: no markup, no HTML, no control characters."""
    if value is None:
        return "–"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = " ".join("".join(character if character.isprintable() else " " for character in plain).split())
    short = line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
    return _MARKUP.sub(r"\\\1", html.escape(short, quote=False))


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}
