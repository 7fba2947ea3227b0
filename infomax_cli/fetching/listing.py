"""What `infomax download` says of what there is and what it would do, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infomax_cli import registry
from infomax_cli.errors import RecipeError
from infomax_cli.fetching.catalogue import CATALOGUE, EMBEDDED, NOT_FOR_DOWNLOAD, Entry, entry_of
from infomax_cli.fetching.plan import Task
from infomax_cli.fetching.store import look
from infomax_cli.paths import root_option
from infomax_cli.recipe import read_recipe
from infomax_cli.recipe_files import list_recipes


def list_catalogue(root: Path) -> list[dict[str, Any]]:
    """Every subset, and how it is under `root`."""
    return [
        {
            "dataset": entry.name,
            "subset": name if len(entry.subsets) > 1 else None,
            "size": subset.size,
            "unpacked": subset.unpacked,
            "folder": subset.folder,
            "state": look(root / subset.folder, subset).state,
            "about": entry.about,
            "page": entry.page,
        }
        for entry in CATALOGUE.values()
        for name, subset in entry.subsets.items()
    ]


def list_foreign() -> list[dict[str, Any]]:
    """Datasets that other distributions bring, from metadata alone."""
    usable = [plugin for plugin in registry.available("datasets") if not plugin.builtin and plugin.status != "off"]
    return [
        {
            "dataset": plugin.name if plugin.status == "plugin" else plugin.qualified,
            "distribution": plugin.distribution,
            "version": plugin.version,
        }
        for plugin in usable
    ]


def list_datasets(root: Path) -> list[dict[str, Any]]:
    """Every dataset that is installed, and whether its files are under `root`, without importing any.

    `state` is embedded, here, not here, own (files of the user's) or unknown (only the plugin can tell).
    """
    rows = []
    for plugin in registry.available("datasets"):
        if plugin.status == "off":
            continue
        name = plugin.name if plugin.status in ("built-in", "plugin") else plugin.qualified
        told = _tell_builtin(plugin.name, root) if plugin.builtin else {"state": "unknown", "about": "", "get": None}
        rows.append({"dataset": name, "from": plugin.distribution, **told})
    return rows


def _tell_builtin(name: str, root: Path) -> dict[str, Any]:
    if name in EMBEDDED:
        return {"state": "embedded", "about": EMBEDDED[name], "get": None}
    entry = entry_of(name)
    if entry is None:
        known = name in NOT_FOR_DOWNLOAD
        return {"state": "own" if known else "unknown", "about": NOT_FOR_DOWNLOAD.get(name, ""), "get": None}
    states = {subset_name: look(root / subset.folder, subset).state for subset_name, subset in entry.subsets.items()}
    here = {subset_name: state for subset_name, state in states.items() if state != "absent"}
    wanted = sum(subset.size or 0 for subset in entry.choose(()).values())
    return {
        "state": "here" if here else "not here",
        "subsets": here,
        "about": entry.about,
        "get": None if here else entry.command(root),
        "size": wanted or None,
    }


def describe_plan(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [
        {
            "subset": task.name,
            "folder": str(task.folder),
            "state": task.condition.state,
            "damaged": list(task.condition.damaged),
            "files": [file.name for file in task.files],
            "urls": [url for file in task.files for url in file.urls],
            "missing": task.missing,
            "exact": task.exact,
            "room": task.room,
        }
        for task in tasks
    ]


def command_that_trains(entry: Entry, root: Path) -> str | None:
    """What to type next: the entry's own words, else the recipe for that data that has the shortest name."""
    words = entry.then
    if not words:
        names = sorted(_recipes_for(entry.name), key=lambda name: (len(name), name))
        words = f"train {names[0]}" if names else ""
    return f"infomax {words}{root_option(root)}" if words else None


def _recipes_for(dataset: str) -> list[str]:
    found = []
    for recipe in list_recipes():
        try:
            data = read_recipe(recipe.path).get("data")
        except RecipeError:
            continue
        if (data.get("name") if isinstance(data, dict) else data) == dataset.replace("-", "_"):  # as plugins are called
            found.append(recipe.name)
    return found
