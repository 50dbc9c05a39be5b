"""The packaged recipes: one YAML file each, named by it. Knows files, not their meaning."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from adreg.errors import ConflictError, NotFoundError, StorageError


@dataclass(frozen=True)
class Recipe:
    """A recipe at a glance: `base` as its source or None for any, `form` the columns of its rows, `trainable` its count."""

    name: str
    description: str
    objective: str
    base: str | None
    form: str
    trainable: int | None


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


def overview() -> list[Recipe]:
    """Every recipe at a glance, in the order of `names`."""
    return [_glance(name, read_recipe(name)) for name in names()]


def copy_recipe(name: str, file: Path) -> None:
    """Write the recipe with its comments to `file`, to be edited. Raises `ConflictError` where something is there."""
    text = recipe_text(name)
    try:
        with file.open("x", encoding="utf-8") as copy:
            copy.write(text)
    except FileExistsError:
        raise ConflictError(f"{file} already exists", "name another file") from None
    except OSError as error:
        raise StorageError(file, str(error.strerror)) from error


def _glance(name: str, settings: dict[str, Any]) -> Recipe:
    columns = settings.get("data", {}).get("map", {})
    return Recipe(
        name,
        settings.get("description", ""),
        settings.get("objective", "sft"),
        settings.get("base", {}).get("name"),
        " / ".join(columns.values()) or "any",
        settings.get("expected_trainable"),
    )
