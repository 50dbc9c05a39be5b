"""The pages of `docs/audit/`, written from the rules: `python -m adreg.audit.pages docs/audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from adreg.audit.catalogue import EVERY_RULE
from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Rule

EFFECT = {
    Severity.BLOCK: "refuses push, merge, export and serve; cannot be allowed",
    Severity.ERR: "refuses merge, export and serve, unless allowed with `--allow {id}`, which the history records",
    Severity.WARN: "is shown",
    Severity.INFO: "is shown",
}
NEEDS = {
    Cost.HEADER: "names, shapes and configuration; no tensor is read",
    Cost.BASE: "the card of a base; no tensor is read",
    Cost.TOKENIZER: "the tokenizer and the chat template that come along; the template is rendered in a process of its own",
    Cost.TENSORS: "one pass over the adapter's tensors",
    Cost.SPECTRA: "the exact singular values of the adapter's updates; a push leaves it out",
    Cost.DEEP: "the base's weights (`--deep`)",
}
CORPUS = "Its threshold has not been measured on a corpus of adapters yet, so it only informs."


def pages() -> dict[str, str]:
    """Every page by its file name, the index among them."""
    return {f"{rule.id}.md": page(rule) for rule in EVERY_RULE} | {"README.md": index()}


def page(rule: Rule[Any]) -> str:
    """The page of one rule, as Markdown."""
    severity = f"`{rule.severity.label}`: {EFFECT[rule.severity].format(id=rule.id)}."
    lines = [f"# {rule.id}: {rule.title}", "", f"- **Severity** {severity}"]
    lines += [f"- **It varies**: {rule.varies}."] if rule.varies else []
    lines += [f"- **Reads** {NEEDS[rule.cost]}."]
    lines += [f"- {CORPUS}"] if rule.needs_corpus else []
    return "\n".join(
        [*lines, "", "## Why it matters", "", _sentence(rule.why), "", "## What to do", "", _sentence(rule.fix), ""]
    )


def index() -> str:
    """The table of all rules."""
    head = [
        "# The audit's rules",
        "",
        "Written from the rules by `make docs`.",
        "",
        "| id | finds | severity |",
        "|---|---|---|",
    ]
    return "\n".join(
        [*head, *(f"| [{rule.id}]({rule.id}.md) | {rule.title} | {rule.severity.label} |" for rule in EVERY_RULE), ""]
    )


def write_pages(folder: Path) -> None:
    """Write every page to `folder`, and remove pages of rules that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for stale in {path.name for path in folder.glob("*.md")} - set(wanted):
        (folder / stale).unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
