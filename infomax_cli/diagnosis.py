"""What `infomax doctor` finds out: libraries, devices, folders, plugins, recipes; and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infomax_cli import __version__, registry
from infomax_cli.checks import check_plugins
from infomax_cli.core.files import cache_root
from infomax_cli.fetching.listing import list_datasets
from infomax_cli.isolation import Call, run_all
from infomax_cli.paths import data_root, nearest_existing, runs_root
from infomax_cli.recipe_files import list_recipes
from infomax_cli.registry import Plugin
from infomax_cli.wording import describe_bytes

LITTLE_SPACE = 2**30
REINSTALL = "install infomax again: pip install . in its folder"


@dataclass(frozen=True)
class Library:
    """A library that infomax uses, and what its loss costs. Without an essential one the main job cannot be done."""

    module: str
    distribution: str
    costs: str
    essential: bool = True
    remedy: str = ""


LIBRARIES = (
    Library("torch", "torch", "nothing can be trained or probed"),
    Library("numpy", "numpy", "nothing can be trained or probed"),
    Library("typer", "typer", "there is no command line"),
    Library("rich", "rich", "there are no tables and no progress"),
    Library("entrypoints", "entrypoints", "no plugin is found, the built-in ones neither"),
    Library("yaml", "PyYAML", "recipes cannot be read"),
    Library("pydantic", "pydantic", "recipes cannot be checked"),
    Library("safetensors", "safetensors", "encoders cannot be exported"),
    Library("soundfile", "soundfile", "audio files cannot be read"),
    Library("scipy", "scipy", "audio cannot be resampled, and `syllables` not synthesized"),
    Library("sklearn", "scikit-learn", "the kNN probe", essential=False),
    Library(
        "torchaudio",
        "torchaudio",
        "the MFCC baseline of `infomax probe`; nothing else",
        essential=False,
        remedy="take torch and torchaudio from the same index: pip install --force-reinstall torch torchaudio",
    ),
    Library(
        "tensorboard.summary.writer.event_file_writer",  # what torch writes with
        "tensorboard",
        "no run can be logged, so that nothing can be trained",
    ),
    Library("matplotlib", "matplotlib", "plots", essential=False),
)


@dataclass(frozen=True)
class Problem:
    """What is missing or broken, what that costs, and what to do."""

    what: str
    costs: str
    remedy: str
    essential: bool = False


@dataclass
class Diagnosis:
    """All findings, as plain data but for `problems`."""

    versions: dict[str, str]
    libraries: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: dict[str, Any] | None = None
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)  # what can be downloaded and is there
    plugins: list[dict[str, Any]] = field(default_factory=list)
    recipes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the main job can be done."""
        return not any(problem.essential for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        return {"sound": self.sound, **asdict(self)}


def diagnose(*, limit: float, progress: Callable[[str], None]) -> Diagnosis:
    """Look at everything; each import has `limit` seconds. `progress` is told what is looked at."""
    found = Diagnosis(
        versions={"infomax": __version__, "python": platform.python_version(), "platform": platform.platform()}
    )
    _examine_libraries(found, limit, progress)
    _examine_devices(found)
    _examine_folders(found)
    _examine_data(found)
    _examine_plugins(found, limit, progress)
    _examine_recipes(found)
    return found


def _examine_libraries(found: Diagnosis, limit: float, progress: Callable[[str], None]) -> None:
    progress("importing libraries")
    calls = {
        library: Call("infomax_cli.checks:library_facts", (library.module, library.distribution))
        for library in LIBRARIES
    }
    answers = dict(run_all(calls, limit=limit))
    for library in LIBRARIES:
        answer = answers[library]
        facts = answer.value or {"version": None, "problem": answer.failure, "notes": []}
        found.libraries[library.distribution] = facts
        if facts["problem"]:
            again = "" if facts["problem"] == "not installed" else "--force-reinstall "
            remedy = library.remedy or f"pip install {again}{library.distribution}"
            what = f"{library.distribution}: {facts['problem']}"
            found.problems.append(Problem(what, library.costs, remedy, library.essential))


def _examine_devices(found: Diagnosis) -> None:
    found.devices = found.libraries["torch"].get("devices")
    if found.devices is None:
        return
    for index, gpu in enumerate(found.devices["cuda"]):
        if gpu["problem"]:
            what = f"cuda:{index} ({gpu['name']}): {gpu['problem']}"
            remedy = "install a torch built for it (pytorch.org)"
            found.problems.append(Problem(what, "this GPU cannot be used", remedy))


def _examine_folders(found: Diagnosis) -> None:
    for name, path, variable, costs in (
        ("data", data_root(), "INFOMAX_DATA", "datasets cannot be downloaded"),
        ("cache", cache_root(), "INFOMAX_CACHE", "indexes and synthesized data are made again each time"),
        ("runs", runs_root(), "INFOMAX_RUNS", "training cannot write its run"),
    ):
        facts = folder_facts(path)
        found.folders[name] = {**facts, "variable": variable}
        elsewhere = f"set {variable} to a folder that can be written and has room"
        if facts["problem"]:
            found.problems.append(Problem(f"{name} folder {facts['path']}: {facts['problem']}", costs, elsewhere))
        elif facts["free"] < LITTLE_SPACE:
            what = f"{name} folder {facts['path']}: only {describe_bytes(facts['free'])} free"
            found.problems.append(Problem(what, "writing may fail", f"make room, or {elsewhere}"))


def _examine_data(found: Diagnosis) -> None:
    with contextlib.suppress(OSError):  # what is wrong with the folder itself has been said
        for row in list_datasets(data_root()):
            if row["state"] == "here":
                damaged = [name for name, state in row["subsets"].items() if state in ("damaged", "incomplete")]
                found.data.append(row["dataset"])
                for name in damaged:
                    what = f"{row['dataset']} in {data_root()}: {name} is {row['subsets'][name]}"
                    remedy = f"infomax download {row['dataset']} --subset {name} --verify"
                    found.problems.append(Problem(what, "training on it may stop", remedy))


def folder_facts(path: Path) -> dict[str, Any]:
    """Whether a folder is there, or can be made, and can be written; and the bytes free on its disk."""
    path, there = path.absolute(), nearest_existing(path)
    problem = None
    if not there.is_dir():
        problem = f"{there} is not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = f"{there} cannot be written"
    return {"path": str(path), "exists": path.exists(), "free": shutil.disk_usage(there).free, "problem": problem}


def _examine_plugins(found: Diagnosis, limit: float, progress: Callable[[str], None]) -> None:
    inventory = registry.inventory()
    for entry in inventory.broken:
        what = f"{entry.distribution}: {entry.name or 'all its plugins'}: {entry.reason}"
        found.problems.append(Problem(what, "it cannot be used", f"pip uninstall {entry.distribution}"))
    if not any(plugin.builtin for plugin in inventory.plugins):
        what = "the built-in plugins are not declared"
        found.problems.append(
            Problem(what, "nothing can be trained", "in the folder of infomax: pip install -e .", essential=True)
        )
    usable = [plugin for plugin in inventory.plugins if plugin.status != "off"]
    problems = _check(usable, limit, progress) if found.libraries["torch"]["problem"] is None else {}
    for plugin in inventory.plugins:
        problem = problems.get(plugin)
        found.plugins.append({**asdict(plugin), "checked": plugin in problems, "problem": problem})
        if problem:
            remedy = REINSTALL if plugin.builtin else f"pip uninstall {plugin.distribution}"
            found.problems.append(Problem(f"{plugin}: {problem}", "it cannot be used", remedy, plugin.builtin))


def _check(plugins: Sequence[Plugin], limit: float, progress: Callable[[str], None]) -> Mapping[Plugin, str | None]:
    verdicts: dict[Plugin, str | None] = {}
    for plugin, problem in check_plugins(plugins, limit=limit):
        verdicts[plugin] = problem
        progress(f"importing plugins: {len(verdicts)} of {len(plugins)}")
    return verdicts


def _examine_recipes(found: Diagnosis) -> None:
    found.recipes = len(list_recipes())
    if not found.recipes:
        found.problems.append(Problem("no recipe is installed", "recipes must be given by path", REINSTALL))
