"""What commands share: option types, the registry, and references."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.errors import UsageError
from adreg.references import Reference, parse_reference
from adreg.registry.versions import Wanted
from adreg.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from adreg.cli.output import Output
    from adreg.registry.records import VersionRecord
    from adreg.registry.registry import Registry

UNITS = {"KB": 10**3, "KIB": 1 << 10, "MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


def complete_name(incomplete: str) -> list[str]:
    """Adapter names for shell completion."""
    if not Settings.from_environment().database.exists():
        return []
    return [name for name in registry().adapters.names() if name.startswith(incomplete)]


def complete_reference(incomplete: str) -> list[str]:
    """References for shell completion: names, and behind a colon the aliases and numbers of one."""
    name, colon, _ = incomplete.partition(":")
    if not colon or not Settings.from_environment().database.exists():
        return complete_name(incomplete)
    found = registry().adapters
    if name not in found.names():
        return []
    numbers = [version["reference"] for version in found.listed(Wanted(name)) if version["yanked"] is None]
    return [ref for ref in [alias.alias for alias in found.aliases(name)] + numbers if ref.startswith(incomplete)]


def complete_base(incomplete: str) -> list[str]:
    """Base names for shell completion."""
    if not Settings.from_environment().database.exists():
        return []
    return [base.name for base in registry().bases.all() if base.name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="name, name:3, name:prod or name@sha256:…", autocompletion=complete_reference)
]
BaseOption = Annotated[
    str | None, typer.Option("--base", "-b", help="A registered base, or a checkpoint folder.", autocompletion=complete_base)
]

AllowOption = Annotated[
    list[str], typer.Option("--allow", metavar="ID", help="An audit rule whose findings (but no block) you take upon yourself.")
]


def registry() -> Registry:
    """The registry under ADREG_HOME."""
    from adreg.registry.registry import Registry

    return Registry(Settings.from_environment())


def resolve(text: str) -> VersionRecord:
    """The version that the reference `text` means."""
    return registry().adapters.resolve(parse_reference(text))


def warn_yanked(out: Output, versions: Iterable[VersionRecord]) -> None:
    """Say of each version that was taken back that it was, and why."""
    for version in versions:
        if version.yanked is not None:
            out.note(f"{version.reference} was yanked{f': {version.yanked}' if version.yanked else ''}", "yellow")


def name_and_alias(text: str) -> Reference:
    """NAME or NAME:ALIAS, where something new gets its name. Raises `UsageError` for a version or digest."""
    reference = parse_reference(text)
    if reference.version or reference.digest:
        raise UsageError(f"{text!r} names an existing version", f"versions are numbered by themselves: use {reference.name}")
    return reference


def quiet_libraries() -> None:
    """Before a model is loaded: no bars but adreg's own, and no warning that only a library's author can act on."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def is_folder(text: str) -> bool:
    """Whether `text` is meant as a path rather than a reference."""
    return Path(text).expanduser().is_dir() or text.startswith((".", "/", "~"))


def parse_size(text: str) -> int:
    """`5GB` or `500MiB` in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]i?B)", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"{text!r} is no size", "write it as 5GB or 500MB")
    return int(float(found[1]) * UNITS[found[2].upper()])
