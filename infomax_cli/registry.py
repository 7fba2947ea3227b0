"""Plugins by name. Names come from metadata alone; nothing is imported but what `load` is asked for.

A distribution declares its plugins as entry points, in one group a kind (``infomax.encoders``, ``infomax.losses``,
``infomax.datasets``), and folders of recipes in ``infomax.recipes``. The built-ins are declared in the same way, by the
distribution ``infomax``, and their names are protected: a stranger's plugin of such a name is reported as shadowed, and
can still be picked as ``distribution:name``. Two strangers of one name can only be picked so.

``INFOMAX_PLUGINS`` says which foreign distributions count: ``off`` (or empty) for none, or a list set apart by commas.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib
import importlib.util
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import entrypoints

from infomax_cli.errors import InfomaxError, PluginError, UsageError
from infomax_cli.wording import describe_error, suggest

Kind = Literal["encoders", "losses", "datasets"]
Status = Literal["built-in", "plugin", "shadowed", "ambiguous", "off"]

KINDS: tuple[Kind, ...] = ("encoders", "losses", "datasets")
SINGULAR: Mapping[Kind, str] = {"encoders": "encoder", "losses": "loss", "datasets": "dataset"}
RECIPES = "infomax.recipes"
BUILTIN = "infomax"


@dataclass(frozen=True)
class Plugin:
    """A plugin as its distribution declares it.

    `status`: ``shadowed`` by a built-in of that name, ``ambiguous`` where other distributions declare the name too, or
    switched ``off`` by ``INFOMAX_PLUGINS``.
    """

    kind: Kind
    name: str
    distribution: str
    version: str | None
    target: str
    status: Status

    @property
    def builtin(self) -> bool:
        return self.distribution == BUILTIN

    @property
    def qualified(self) -> str:
        """The name that picks this plugin whatever others are called."""
        return f"{self.distribution}:{self.name}"

    def __str__(self) -> str:
        return f"{SINGULAR[self.kind]} {self.name!r} of {self.distribution} {self.version or '(version unknown)'}"


@dataclass(frozen=True)
class BrokenEntry:
    """Metadata that makes no sense: one entry, or (`name` is None) all that a distribution declares."""

    distribution: str
    version: str | None
    group: str | None
    name: str | None
    reason: str


@dataclass(frozen=True)
class Inventory:
    """All that is installed: plugins (built-ins first), recipe folders by distribution, and what cannot be read."""

    plugins: tuple[Plugin, ...]
    recipe_folders: tuple[tuple[str, Path], ...]
    broken: tuple[BrokenEntry, ...]


# --- what the rest of infomax asks for -------------------------------------------------------------------------------


def available(kind: Kind) -> list[Plugin]:
    """The plugins of one kind, built-ins first, those that cannot be picked by their bare name among them."""
    return [plugin for plugin in inventory().plugins if plugin.kind == kind]


def recipe_folders() -> list[tuple[str, Path]]:
    """Folders of recipes that foreign distributions bring, as (distribution, folder)."""
    return list(inventory().recipe_folders)


def load(kind: Kind, name: str) -> type[Any]:
    """Import the plugin called `name`, or ``distribution:name``, and return its class.

    Raises `UsageError` where there is no such plugin or the name is ambiguous, `PluginError` where it cannot be
    imported.
    """
    return load_plugin(find(kind, name))


def find(kind: Kind, name: str) -> Plugin:
    """The plugin that `name` picks. Raises `UsageError` as `load` does, and imports nothing."""
    found = inventory()
    distribution, colon, bare = name.rpartition(":")
    named = [plugin for plugin in found.plugins if plugin.kind == kind and plugin.name == bare]
    if colon:
        named = [plugin for plugin in named if plugin.distribution == normalise(distribution)]
    on = [plugin for plugin in named if plugin.status != "off"]
    if not on:
        raise _not_found(kind, name, bare, named, found)
    if on[0].status == "ambiguous" and not colon:
        several = " and ".join(plugin.distribution for plugin in on)
        choices = " or ".join(plugin.qualified for plugin in on)
        raise UsageError(f"{SINGULAR[kind]} {name!r} is declared by {several}", f"say which: {choices}")
    return on[0]


def load_plugin(plugin: Plugin) -> type[Any]:
    """Import `plugin`; whatever goes wrong while its module runs becomes a `PluginError` that names it."""
    module, _, attribute = plugin.target.partition(":")
    try:
        with contained():
            loaded: Any = importlib.import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except KeyboardInterrupt:
        raise
    except InfomaxError as error:
        raise PluginError(f"{plugin} cannot be used: {error.message}", error.hint) from error
    except BaseException as error:  # a stranger's module may raise anything, SystemExit included
        raise PluginError(f"{plugin} cannot be used: {_reason(error)}", _remedy(plugin, error)) from error
    if not isinstance(loaded, type):
        raise PluginError(f"{plugin} cannot be used: {plugin.target} is not a class", _remedy(plugin))
    return loaded


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """While a stranger's module runs: what it prints is a message, not a result, and it cannot end the process."""
    leave = os._exit

    def refuse(status: int) -> NoReturn:
        raise SystemExit(status)

    os._exit = refuse
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os._exit = leave


def _reason(error: BaseException) -> str:
    return f"it exits on import, with {error.code!r}" if isinstance(error, SystemExit) else describe_error(error)


def _remedy(plugin: Plugin, error: BaseException | None = None) -> str:
    if plugin.builtin:
        return "`infomax doctor` says what is missing or broken"
    away = f"`pip uninstall {plugin.distribution}` if you do not need it"
    own = plugin.target.partition(".")[0].partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != own:
        return f"install what it needs (pip install {error.name.partition('.')[0]}?), or {away}"
    return f"tell its authors; `pip install --upgrade {plugin.distribution}` may help, or {away}"


def _not_found(kind: Kind, name: str, bare: str, off: list[Plugin], found: Inventory) -> InfomaxError:
    if off:
        where = f"INFOMAX_PLUGINS={os.environ.get('INFOMAX_PLUGINS', '')}"
        return UsageError(
            f"{off[0]} is switched off by {where}", f"add {off[0].distribution} to INFOMAX_PLUGINS, or unset it"
        )
    for entry in found.broken:
        if entry.group == f"infomax.{kind}" and entry.name == bare:
            return PluginError(
                f"{SINGULAR[kind]} {bare!r} of {entry.distribution} {entry.version} cannot be used: {entry.reason}",
                f"tell its authors, or `pip uninstall {entry.distribution}`",
            )
    if not any(plugin.builtin for plugin in found.plugins):
        return PluginError(
            f"there is no {SINGULAR[kind]} {name!r}: not even the built-in plugins are declared",
            "infomax is not installed in this Python; in its folder: pip install -e .",
        )
    others = [plugin.kind for plugin in found.plugins if plugin.name == bare and plugin.kind != kind]
    elsewhere = f"; {bare!r} is among the {others[0]}" if others else ""
    names = list(dict.fromkeys(_usable_names(plugin for plugin in found.plugins if plugin.kind == kind)))
    return UsageError(f"there is no {SINGULAR[kind]} {name!r}{elsewhere}", _suggest_and_list(name, names))


def _usable_names(plugins: Iterable[Plugin]) -> Iterator[str]:
    for plugin in plugins:
        if plugin.status != "off":
            yield plugin.name if plugin.status in ("built-in", "plugin") else plugin.qualified


def _suggest_and_list(name: str, names: list[str]) -> str | None:
    hint, everything = suggest(name, names), f"there are: {', '.join(names)}"
    return f"{hint} {everything}" if hint and hint != everything else hint


# --- reading metadata ------------------------------------------------------------------------------------------------

_UNREADABLE = (configparser.Error, zipfile.BadZipFile, UnicodeDecodeError, OSError)


@dataclass(frozen=True)
class _Distribution:
    """What one installed distribution declares; `reason` where its metadata cannot be read."""

    name: str
    version: str | None
    config: configparser.ConfigParser
    reason: str | None = None


def inventory() -> Inventory:
    """Read the metadata of everything on ``sys.path``. One distribution's broken metadata never hides another's."""
    allowed = _allowed()
    plugins: list[Plugin] = []
    folders: list[tuple[str, Path]] = []
    broken: list[BrokenEntry] = []
    for distribution in _distributions():
        on = distribution.name == BUILTIN or allowed is None or distribution.name in allowed
        if distribution.reason and on:
            broken.append(BrokenEntry(distribution.name, distribution.version, None, None, distribution.reason))
        for kind in KINDS:
            _read_plugins(distribution, kind, on, plugins, broken)
        if on:
            _read_folders(distribution, folders, broken)
    order = sorted(plugins, key=lambda p: (KINDS.index(p.kind), not p.builtin, p.distribution, p.name))
    return Inventory(tuple(_judge(order)), tuple(sorted(folders)), tuple(broken))


def malformed() -> list[str]:
    """The metadata files of installed distributions that cannot be parsed, ours or not: each also ends the import of
    any library that looks for entry points, torch among them."""
    found = []
    for folder in sys.path:
        for file in sorted(Path(folder).glob("*.*-info/entry_points.txt")):
            try:
                entrypoints.CaseSensitiveConfigParser(delimiters=("=",)).read([file])
            except _UNREADABLE:
                found.append(str(file))
    return found


def unknown_allowed() -> list[str]:
    """What ``INFOMAX_PLUGINS`` lists and is not installed: a slip of the pen, most likely."""
    return sorted((_allowed() or frozenset()) - {distribution.name for distribution in _distributions()})


def normalise(distribution: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _allowed() -> frozenset[str] | None:
    """The foreign distributions that count; None is all."""
    value = os.environ.get("INFOMAX_PLUGINS")
    if value is None or value.strip().lower() == "all":
        return None
    if value.strip().lower() in ("", "off", "0", "none"):
        return frozenset()
    return frozenset(normalise(part) for part in value.split(",") if part.strip())


def _distributions() -> Iterator[_Distribution]:
    """Each distribution once: as in importing, the first on ``sys.path`` counts."""
    seen: set[str] = set()
    for folder in sys.path:
        for distribution in _read_folder(folder):
            # pip renames what it is about to remove to ~name, and leaves it there when it is interrupted
            if distribution.name not in seen and not distribution.name.startswith("~"):
                seen.add(distribution.name)
                yield distribution


def _read_folder(folder: str) -> Iterator[_Distribution]:
    try:
        found = list(entrypoints.iter_files_distros([folder]))
    except _UNREADABLE:
        yield from _read_one_by_one(folder)
        return
    for config, distro in found:
        yield _Distribution(normalise(distro.name), distro.version, config)


def _read_one_by_one(folder: str) -> Iterator[_Distribution]:
    """`_read_folder` where `entrypoints` gave up on one file, and with it on all that it had not read yet."""
    for file in sorted(Path(folder).glob("*.*-info/entry_points.txt")):
        distro = entrypoints.Distribution.from_name_version(file.parent.stem)
        name, config = normalise(distro.name), entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
        try:
            config.read([file])
        except _UNREADABLE as error:
            if _mentions_infomax(file):
                config = entrypoints.CaseSensitiveConfigParser()
                reason = f"malformed entry_points.txt: {describe_error(error)}"
                yield _Distribution(name, distro.version, config, reason)
        else:
            yield _Distribution(name, distro.version, config)


def _mentions_infomax(file: Path) -> bool:
    """Whether a malformed file is our business at all."""
    try:
        return b"infomax." in file.read_bytes()
    except OSError:
        return False


def _entries(
    distribution: _Distribution, group: str, broken: list[BrokenEntry]
) -> Iterator[tuple[str, entrypoints.EntryPoint]]:
    if not distribution.config.has_section(group):
        return
    for name, text in distribution.config.items(group, raw=True):
        try:
            yield name, entrypoints.EntryPoint.from_string(text, name)
        except entrypoints.BadEntryPoint:
            reason = f"malformed entry point {text!r}"
            broken.append(BrokenEntry(distribution.name, distribution.version, group, name, reason))


def _read_plugins(
    distribution: _Distribution, kind: Kind, on: bool, plugins: list[Plugin], broken: list[BrokenEntry]
) -> None:
    group, reports = f"infomax.{kind}", broken if on else []
    for name, entry in _entries(distribution, group, reports):
        if not entry.object_name:
            reason = f"{entry.module_name!r} names a module, not a class in it"
            reports.append(BrokenEntry(distribution.name, distribution.version, group, name, reason))
            continue
        status: Status = "built-in" if distribution.name == BUILTIN else "plugin" if on else "off"
        target = f"{entry.module_name}:{entry.object_name}"
        plugins.append(Plugin(kind, name, distribution.name, distribution.version, target, status))


def _judge(plugins: list[Plugin]) -> Iterator[Plugin]:
    """Mark the plugins whose bare name picks another one, or none."""
    for plugin in plugins:
        rivals = [p for p in plugins if (p.kind, p.name) == (plugin.kind, plugin.name) and p.status != "off"]
        if plugin.status != "plugin" or len(rivals) == 1:
            yield plugin
        else:
            yield replace(plugin, status="shadowed" if any(rival.builtin for rival in rivals) else "ambiguous")


def _read_folders(distribution: _Distribution, folders: list[tuple[str, Path]], broken: list[BrokenEntry]) -> None:
    for name, entry in _entries(distribution, RECIPES, broken):
        folder = _locate(entry.module_name)
        if folder is None:
            reason = f"there is no folder {entry.module_name!r}"
            broken.append(BrokenEntry(distribution.name, distribution.version, RECIPES, name, reason))
        else:
            folders.append((distribution.name, folder))


def _locate(package: str) -> Path | None:
    """The folder of a package, found without importing it: `find_spec` imports nothing for a top-level name."""
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = (Path(place, *rest) for place in places)
    return next((folder for folder in found if folder.is_dir()), None)
