"""Shared steps: adreg's merge of the fixtures, and PEFT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adreg.export.changes.source import Source
from adreg.export.plan import plan_merge
from adreg.export.request import MergeRequest
from adreg.export.run import MergeResult, run_merge
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint


def source(folder: Path, weight: float = 1.0) -> Source:
    return Source(open_adapter(folder), weight, folder.name)


def request(base: Path, *adapters: Path | Source, output: Path, **settings: Any) -> MergeRequest:
    sources = tuple(given if isinstance(given, Source) else source(given) for given in adapters)
    return MergeRequest(open_checkpoint(base), sources, **{"target": "gguf", "output": output, **settings})


def merge(base: Path, *adapters: Path | Source, output: Path, **settings: Any) -> MergeResult:
    return run_merge(plan_merge(request(base, *adapters, output=output, **settings)))


def retokenize(folder: Path, step: dict[str, Any], normalizer: dict[str, Any] | None = None, **model: Any) -> Path:
    """Give the tokenizer in `folder` another pre-tokenizer, normaliser and `model` settings."""
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition |= {"pre_tokenizer": step, "normalizer": normalizer, "model": definition["model"] | model}
    path.write_text(json.dumps(definition))
    return folder


def peft_merged(base: Path, adapter: Path) -> Any:
    """The transformers model that PEFT makes of the two."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
