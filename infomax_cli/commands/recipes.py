"""``infomax recipes``: list them, show one, copy one to change it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

recipes = typer.Typer(help="List the recipes; show one, or copy it to change it.")


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes, for the shell's completion."""
    from infomax_cli.recipe_files import list_recipes

    return [recipe.name for recipe in list_recipes() if recipe.name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="A recipe's name, or the path of one.", autocompletion=complete_recipe)]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@recipes.callback(invoke_without_command=True)
def list_without_a_verb(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes; show one, or copy it to change it."""
    if context.invoked_subcommand is None:
        list_all(as_json)


@recipes.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List the recipes."""
    from infomax_cli.console import print_json, results
    from infomax_cli.recipe_files import list_recipes

    found = list_recipes()
    if as_json:
        print_json([{"name": r.name, "path": str(r.path), "from": r.source, "about": r.header} for r in found])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("name", "from", "about"):
        table.add_column(column, overflow="fold", no_wrap=column != "about")
    for recipe in found:
        table.add_row(recipe.name, recipe.source, Text(_first_sentence(recipe.header)))
    results().print(table)


@recipes.command()
def show(name: Name) -> None:
    """Print a recipe."""
    typer.echo(_read(name)[1], nl=False)


@recipes.command()
def copy(
    name: Name,
    destination: Annotated[Path | None, typer.Argument(help="A file or a folder; here, if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Copy a recipe to a file of your own."""
    from infomax_cli.core.files import write_text
    from infomax_cli.errors import InfomaxError, UsageError
    from infomax_cli.recipe_files import SUFFIXES

    source, text = _read(name)
    target = destination or Path()
    if target.is_dir():
        target /= source.name
    elif target.suffix not in SUFFIXES:
        target = target.with_name(f"{target.name}.yaml")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already", "give another name, or --force to replace it")
    try:
        write_text(target, text)
    except OSError as error:
        raise InfomaxError(
            f"cannot write {target}: {error.strerror or error}", "choose a folder that you may write in"
        ) from error
    typer.echo(f"{target}: a copy of {name}; train it with: infomax train {_as_argument(target)}")


def _read(name: str) -> tuple[Path, str]:
    from infomax_cli.errors import RecipeError
    from infomax_cli.recipe_files import find_recipe

    path = find_recipe(name)
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error


def _first_sentence(header: str) -> str:
    """What the experiment is; `show` has the rest: published scores, cost."""
    text = " ".join(header.split())
    sentence, stop, _ = text.partition(". ")
    return sentence + stop.rstrip()


def _as_argument(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
