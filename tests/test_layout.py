"""The repository's promises about itself: root links, and documents that name only commands that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adreg.cli.app import command_line

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["registry", "export", "serve", "examples"])
def test_root_links_lead_into_the_package(name):
    assert (ROOT / name).is_symlink() and (ROOT / name).resolve() == ROOT / "adreg" / name


def groups() -> Any:
    return get_command(command_line()).commands  # type: ignore[attr-defined]


def commands() -> dict[str, set[str]]:
    """Every command as its words, with its options."""
    found: dict[str, set[str]] = {}
    for name, command in groups().items():
        for sub, inner in getattr(command, "commands", {"": command}).items():
            found[f"{name} {sub}".strip()] = {
                flag for parameter in inner.params for flag in parameter.opts + parameter.secondary_opts
            }
    return found


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "docs/architecture.md"])
def test_documents_name_only_commands_and_options_that_exist(document):
    known = commands()
    for line in re.findall(r"^ *\$? *adreg ([a-z].*)$", (ROOT / document).read_text(), re.MULTILINE):
        words = line.split("#")[0].split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, line
        flags = {word.split("=")[0] for word in words if word.startswith("-")}
        assert flags <= known[name] | {"--help", "-h"}, line


def test_every_command_says_what_it_does():
    for name, command in groups().items():
        for inner in getattr(command, "commands", {"": command}).values():
            assert inner.help and inner.help.strip(), name
