"""Changes to a recipe from the command line: ``dotted.key=value``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from infomax_cli.dialect import parse_yaml
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import SECTIONS, loss_entries
from infomax_cli.wording import suggest


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `raw` with each ``dotted.key=value`` put in; the value is read as YAML.

    ``loss.0.weight`` and ``loss.infonce.weight`` name one of several losses; of a single one its keys follow at once.
    Of ``train.steps`` and ``train.epochs`` the one that is given takes the other's place.
    """
    result = copy.deepcopy(dict(raw))
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise RecipeError(f"{override}: an override is KEY=VALUE", "for example train.lr=1e-3 or loss.negatives=16")
        given[key] = value = parse_yaml(text, override)
        _set(result, key.split("."), value, override)
    for ending, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if given.get(ending) is not None and other not in given and isinstance(result["train"], dict):
            result["train"].pop(other.partition(".")[2], None)
    return result


def source_of(recipe: str, overrides: Sequence[str]) -> str:
    """What an error should blame: the recipe, and what was changed about it."""
    return f"{recipe} with {' '.join(overrides)}" if overrides else recipe


def _set(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    section, *below = keys
    known = [name for name in SECTIONS if name != "from"]  # that is read before anything is changed
    if section not in known:
        raise RecipeError(f"{override}: there is no section {section!r}", suggest(section, known))
    if not below:
        tree[section] = value
    elif section == "loss":
        tree["loss"] = entries = loss_entries(tree.get("loss"))
        place, below = _pick_loss(entries, below, override)
        if below:
            _set_below(entries[place], below, value, override)
        else:
            entries[place] = value
    else:
        if section in ("data", "encoder") and isinstance(tree.get(section), str):
            tree[section] = {"name": tree[section]}
        _set_below(tree, keys, value, override)


def _set_below(tree: Any, keys: list[str], value: Any, override: str) -> None:
    """Put `value` in, making the mappings on the way that are missing.

    A number picks from a list, and a word there is short for a mapping of that name: ``views.augment.1.hue``.
    """
    for key, following in pairwise(keys):
        place: Any = int(key) if isinstance(tree, list) else key
        inside = tree[place] if isinstance(tree, list) else tree.get(key)
        if inside is None:
            inside = {}
        elif isinstance(tree, list) and isinstance(inside, str):
            inside = {"name": inside}
        if not isinstance(inside, dict) and not _has_place(inside, following):
            raise RecipeError(f"{override}: {key!r} has nothing below it: it is {inside!r}")
        tree[place] = inside
        tree = inside
    tree[int(keys[-1]) if isinstance(tree, list) else keys[-1]] = value


def _has_place(value: Any, key: str) -> bool:
    return isinstance(value, list) and key.isdecimal() and int(key) < len(value)


def _pick_loss(entries: list[Any], keys: list[str], override: str) -> tuple[int, list[str]]:
    """Which entry the keys of an override mean, and what remains of them."""
    key, rest = keys[0], keys[1:]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    hint = f"name one of: {', '.join(f'loss.{place} ({name})' for place, name in enumerate(names))}" if names else None
    named = [place for place, name in enumerate(names) if name == key]
    if len(named) > 1:
        raise RecipeError(f"{override}: there are {len(named)} losses {key!r}", hint)
    if key.isdecimal() and int(key) < len(entries):
        place, keys = int(key), rest
    elif named and (rest or len(entries) > 1):
        place, keys = named[0], rest
    elif len(entries) == 1 and not key.isdecimal():
        place = 0  # loss.negatives=16 reaches the only entry
    else:
        raise RecipeError(f"{override}: there is no loss {key!r} among {len(entries)}", hint)
    if keys and not isinstance(entries[place], dict):
        raise RecipeError(f"{override}: {key!r} has nothing below it: it is {entries[place]!r}")
    return place, keys
