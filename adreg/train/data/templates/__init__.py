"""The chat templates that come with adreg, for bases without one: Jinja files, named by them. Knows no rows.

What a run trains with is what its adapter's folder carries on, so that chat, server and exports read the same text.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from adreg.errors import FormatError, UsageError

OWN, PLAIN, RAW = "the base's own", "plain", "raw"
LIMIT = 1_000_000


@dataclass(frozen=True)
class Template:
    """A chat template: what it is called, and its Jinja text."""

    name: str
    text: str


@cache
def names() -> list[str]:
    """The templates of the package."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".jinja") for file in files if file.name.endswith(".jinja"))


def choose_template(setting: str, own: str | None, raw: bool) -> Template:
    """The template that `data.template` means for a base whose `own` is given; `raw` rows need nothing between their parts.

    Raises `UsageError` for a name or a file that there is not.
    """
    if setting == "auto":
        return Template(OWN, own) if own is not None else named(RAW if raw else PLAIN)
    if setting in names():
        return named(setting)
    path = Path(setting).expanduser()
    if path.suffix in (".jinja", ".jinja2", ".j2") or path.is_file():
        return Template(str(path), _read(path))
    close = difflib.get_close_matches(setting, names(), 1)
    advice = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"data.template: there is no template {setting!r}", f"{advice}known are auto, {', '.join(names())}, or a .jinja file"
    )


def named(name: str) -> Template:
    """The template `name` of the package."""
    return Template(name, resources.files(__name__).joinpath(f"{name}.jinja").read_text(encoding="utf-8"))


def _read(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"data.template: there is no file {path}", f"known names are auto, {', '.join(names())}")
    content = path.read_bytes()
    if len(content) > LIMIT:
        raise FormatError(path, f"is longer than {LIMIT} bytes", "T-TPL-1")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"is not UTF-8: {error}", "T-TPL-1") from error
