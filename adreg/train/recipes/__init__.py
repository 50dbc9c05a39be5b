"""The packaged recipes: one YAML file each, named by it. Knows files, not their meaning."""

from __future__ import annotations

import difflib
from importlib import resources
from typing import Any

import yaml

from adreg.errors import NotFoundError


def names() -> list[str]:
    """The names of the packaged recipes."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The recipe `name` as written. Raises `NotFoundError`."""
    if name not in names():
        raise NotFoundError("recipe", name, difflib.get_close_matches(name, names()))
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe `name` as nested settings, not yet checked."""
    return dict(yaml.safe_load(recipe_text(name)))
