"""The model card of a merged checkpoint: what it was made of and how, with the ids that prove it."""

from __future__ import annotations

from typing import Any

from adreg.export.plan import MergePlan
from adreg.registry.hub.card import compose_card, marked
from adreg.registry.hub.modelcard import as_markdown, table
from adreg.registry.hub.reference import is_repo

TAGS = ["adreg", "lora", "merged"]


def merged_card(plan: MergePlan) -> str:
    """README.md for the checkpoint that `plan` makes."""
    request = plan.request
    sources = [(source.label, f"{source.weight:g}") for source in request.sources]
    parts = [
        f"# {as_markdown(plan.name)}",
        f"**{as_markdown(request.base_name or request.base.folder.name)}** with the adapters below folded into its weights.",
        table(("adapter", "weight"), sources),
        "## Provenance",
        table(("what", "value"), list(plan.record().items())),
    ]
    return compose_card(_front(plan), marked("\n\n".join(part for part in parts if part)))


def _front(plan: MergePlan) -> dict[str, Any]:
    from gguf import Metadata

    theirs = Metadata.load_model_card(plan.request.base.folder)
    front: dict[str, Any] = {}
    if is_repo(plan.request.base_name):
        front |= {"base_model": plan.request.base_name, "base_model_relation": "finetune"}
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": TAGS}
    return front | {key: theirs[key] for key in ("license", "license_name", "license_link") if theirs.get(key)}
