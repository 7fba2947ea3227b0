"""Where recipes are: in the checkout's ``configs/`` or the installed package, in plugins, or at a path."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from infomax_cli import registry
from infomax_cli.errors import RecipeError
from infomax_cli.wording import suggest

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that can be named. `source` is the distribution it comes from; `header` the comment at its top."""

    name: str
    path: Path
    source: str
    header: str


def list_recipes() -> list[RecipeFile]:
    """The built-in recipes, then the plugins', each under a name that picks it and no other.

    A plugin's recipe whose bare name a built-in or another plugin has too is called ``distribution:name``.
    """
    files = [(registry.BUILTIN, path) for path in _yaml_files(builtin_folder())]
    for distribution, folder in registry.recipe_folders():
        files += [(distribution, path) for path in _yaml_files(folder)]
    count = Counter(path.stem for _, path in files)
    return [
        RecipeFile(
            name=path.stem if source == registry.BUILTIN or count[path.stem] == 1 else f"{source}:{path.stem}",
            path=path,
            source=source,
            header=_header(path),
        )
        for source, path in files
    ]


def find_recipe(name: str) -> Path:
    """The file that `name` picks: a path, the name of a recipe, or ``distribution:name``.

    Raises `RecipeError` where there is none, or several.
    """
    if name.endswith(SUFFIXES) or "/" in name or "\\" in name or name.startswith("~"):
        return _at_path(name)
    recipes = list_recipes()
    distribution, _, bare = name.rpartition(":")
    for recipe in recipes:
        qualified = (recipe.source, recipe.path.stem) == (registry.normalise(distribution), bare)
        if recipe.name == name or qualified:
            return recipe.path
    if several := [recipe.name for recipe in recipes if recipe.path.stem == name]:
        raise RecipeError(f"the recipe {name!r} comes from several plugins", f"say which: {' or '.join(several)}")
    hint = suggest(name, [recipe.name for recipe in recipes]) or "give the path of a .yaml file"
    raise RecipeError(f"there is no recipe {name!r}", f"{hint} (`infomax recipes` lists them)")


def builtin_folder() -> Path | None:
    """The checkout's ``configs`` folder, or the one that was installed; None where both are missing."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout / "configs"
    spec = importlib.util.find_spec("infomax_configs")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _at_path(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{name} is a folder, not a recipe", "name a .yaml file in it")
    known = [recipe.name for recipe in list_recipes()]
    hint = f"the recipe that comes with infomax is called {path.stem}" if path.stem in known else None
    raise RecipeError(f"there is no recipe file {name}", hint or "`infomax recipes` lists those that have a name")


def _yaml_files(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def _header(path: Path) -> str:
    """The lines of the comment at the top, without their marks."""
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("#"):
                    break
                lines.append(line.lstrip("#").strip())
    except (OSError, UnicodeDecodeError) as error:
        return f"(cannot be read: {error})"
    return "\n".join(lines).strip()
