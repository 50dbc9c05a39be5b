"""Names of models as Ollama has them. Knows how they are spelled, not which there are.

Source: ollama 0.33, types/model/name.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adreg.errors import UsageError

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
NAME = re.compile(
    r"(?:(?:(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class ModelName:
    """A whole name; no part of it can lead out of a folder."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """`[[HOST/]NAMESPACE/]MODEL[:TAG]` with Ollama's defaults. Raises `UsageError`."""
        found = NAME.fullmatch(text)
        if found is None:
            hint = "a name is model, model:tag or namespace/model:tag, of letters, digits, _ - and ."
            raise UsageError(f"{text!r} is no name for an Ollama model", hint)
        return cls(found["host"] or HOST, found["namespace"] or NAMESPACE, found["model"], found["tag"] or TAG)

    @property
    def path(self) -> Path:
        """Where its manifest lies under `manifests/`."""
        return Path(self.host, self.namespace, self.model, self.tag)

    def __str__(self) -> str:
        """As Ollama shows it: without the parts that are its defaults."""
        name = f"{self.model}:{self.tag}"
        if self.host.lower() != HOST:
            return f"{self.host}/{self.namespace}/{name}"
        return name if self.namespace.lower() == NAMESPACE else f"{self.namespace}/{name}"
