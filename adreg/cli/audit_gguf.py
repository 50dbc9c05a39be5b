"""`adreg audit FILE.gguf`: a model or a LoRA in a GGUF file, beside what the registry knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import NotFoundError

if TYPE_CHECKING:
    from adreg.audit.findings import AuditReport
    from adreg.audit.run import Speed
    from adreg.formats.gguf.tensors import GgufTensors
    from adreg.registry.registry import Registry


def means_gguf(text: str) -> bool:
    """Whether `text` is the path of a file that is a GGUF file, or is called one."""
    from adreg.formats.gguf.header import is_gguf

    path = Path(text).expanduser()
    return path.is_file() and (path.suffix.lower() == ".gguf" or is_gguf(path))


def audit_gguf(found: Registry, text: str, base: str | None, target: str, speed: Speed, out: Output) -> AuditReport:
    """The findings about the file; `base` is a GGUF file, a checkpoint folder or a registered base for a LoRA."""
    from dataclasses import replace

    from adreg.audit.gguf import inspect_gguf, judge_gguf
    from adreg.registry.origin import facts_about

    path = Path(text).expanduser()
    seen = inspect_gguf(path, target=target)
    beside = find_base(found, base, out) if base else None
    return judge_gguf(replace(seen, base=beside, facts=facts_about(found, seen.fields, path)), speed)


def find_base(found: Registry, text: str, out: Output) -> GgufTensors:
    """What a LoRA is to be applied to, under the names that a GGUF file has. Raises `NotFoundError` or `FormatError`."""
    from adreg.audit.gguf import tensors_of
    from adreg.formats.gguf.tensors import as_gguf

    path = Path(text).expanduser()
    if means_gguf(text):
        return tensors_of(path)
    if path.exists() and not path.is_dir():
        raise NotFoundError("base", text)
    card = found.bases.look(text, progress(out.human)).card
    return as_gguf(card.name, card.model_type, card.shapes, card.conv1d, card.ids.weights_id)
