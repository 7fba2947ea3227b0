"""Run folders: where they lie, how they are named, and how a user's words find one. No torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infomax_cli.core.files import hold
from infomax_cli.errors import CheckpointError, RecipeError, UsageError
from infomax_cli.recipe import Recipe, parse, read_recipe
from infomax_cli.recipe_files import find_recipe

MAY_CHANGE_ON_RESUME = ("data.path", "data.root", "train.epochs", "train.steps", "train.workers")


@dataclass(frozen=True)
class Run:
    """A folder ``runs/<recipe>-<time>/`` and the names of what lies in it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint, whole at any moment."""
        return self.checkpoints / "last.pt"

    def numbered(self, step: int) -> Path:
        """The checkpoint of a step, which is there where `train.keep` kept it."""
        return self.checkpoints / f"step-{step:08d}.pt"

    @property
    def encoder_file(self) -> Path:
        return self.path / "encoder.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def recipe(self) -> Recipe:
        """The resolved recipe that the run was made by."""
        return parse(read_recipe(self.recipe_file), str(self.recipe_file))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against a second process that would train it; the system frees it when we die."""
        busy = CheckpointError(
            f"another process is training {self.path}", "wait for it, or stop it with Ctrl-C or SIGTERM"
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(self.path / ".lock", busy))
            except OSError as error:
                raise CheckpointError(f"cannot write in {self.path}: {error.strerror}") from error
            yield

    def remove_leftovers(self) -> None:
        """Take away what a process that was killed had begun to write. Only under the lock."""
        for folder in (self.path, self.checkpoints):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)


def new_run(folder: Path, name: str) -> Run:
    """A fresh folder; a suffix keeps two of one second apart."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1000):
        path = folder / (stem if attempt == 0 else f"{stem}-{attempt + 1}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(
                f"cannot make the run folder {path}: {error.strerror}", "choose a writable one with --runs"
            ) from error
        return Run(path)
    raise CheckpointError(f"cannot make a run folder like {folder / stem}", "choose another folder with --runs")


def all_runs(folder: Path) -> list[Run]:
    """The runs in `folder`, the newest last; those that were killed before their first checkpoint among them."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            run = Run(path)
            with contextlib.suppress(OSError):  # no recipe, or it is being removed
                found.append((run.recipe_file.stat().st_mtime_ns, run.name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2])]


def find_run(given: str | None, folder: Path) -> Run:
    """The run that a user means: a run's folder by its path or its name, the newest run of a recipe by the recipe's
    name or file, or (nothing given) the newest of all. Raises `UsageError` where there is none."""
    known = all_runs(folder)
    if given is None:
        if not known:
            raise UsageError(f"{folder} holds no run", _train_first("gim-syllables"))
        return known[-1]
    for path in (Path(given).expanduser(), folder / given):
        if Run(path).recipe_file.is_file():
            return Run(path)
    recipe = _recipe_called(given)
    for run in reversed(known):
        if _name_of(run) == (recipe or given):
            return run
    if recipe is not None:
        raise UsageError(f"{folder} holds no run of {recipe}", _train_first(given))
    hint = f"in {folder} there are: {', '.join(run.name for run in known[-8:])}" if known else f"{folder} holds no run"
    raise UsageError(f"there is no run or recipe {given!r}", hint)


def _train_first(recipe: str) -> str:
    return f"train one first, for example: infomax train {recipe}"


def _recipe_called(given: str) -> str | None:
    """The name that a recipe's runs bear; None where there is no such recipe."""
    try:
        return str(read_recipe(find_recipe(given))["name"])
    except RecipeError:
        return None


def _name_of(run: Run) -> str | None:
    """The name of a run's recipe; None where it cannot be read."""
    try:
        return run.recipe().name
    except RecipeError:
        return None
