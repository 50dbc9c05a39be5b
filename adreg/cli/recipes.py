"""`adreg recipes`: training settings that come with adreg."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adreg.cli.common import Json, Quiet
from adreg.cli.output import Output, print_line

app = typer.Typer(help="Recipes: training settings that come with adreg.", no_args_is_help=True)


def complete_recipe(incomplete: str) -> list[str]:
    """Recipe names for shell completion."""
    from adreg.train import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="A recipe.", autocompletion=complete_recipe)]


@app.command("ls")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the recipes."""
    from adreg.train import recipes

    rows = [vars(recipe) for recipe in recipes.overview()]
    columns = {
        "NAME": lambda row: row["name"],
        "BASE": lambda row: row["base"] or "any",
        "DATA": lambda row: row["form"],
        "TRAINS": lambda row: f"{row['trainable']:,}" if row["trainable"] else "-",
        "WHAT": lambda row: row["description"],
    }
    Output(json, quiet).table(rows, columns, "name", "no recipes")


@app.command()
def show(name: Name, json: Json = False) -> None:
    """Print a recipe, ready to be edited and given to `adreg train`."""
    from adreg.train import recipes

    if json:
        Output(json).data(recipes.read_recipe(name))
    else:
        print_line(recipes.recipe_text(name).rstrip())


@app.command()
def copy(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A new file.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a recipe to a file, to be edited and given to `adreg train`."""
    from adreg.train import recipes

    recipes.copy_recipe(name, file)
    Output(json, quiet).done(f"wrote {file}: adreg train {file} --data FILE", {"file": str(file)}, "file")
