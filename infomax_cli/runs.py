"""Run folders: where they lie, how they are named, and how a user's words find one. No torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infomax_cli.errors import CheckpointError, UsageError
from infomax_cli.recipe import Recipe, parse, read_recipe


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
        import fcntl

        try:
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise CheckpointError(f"cannot write in {self.path}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CheckpointError(f"another process is training {self.path}") from error
            yield


def new_run(folder: Path, name: str) -> Run:
    """A fresh folder; a suffix keeps two of one second apart."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1000):
        path = folder / (stem if attempt == 0 else f"{stem}-{attempt + 1}")
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if folder.exists() and not folder.is_dir():
                raise CheckpointError(
                    f"cannot make a run in {folder}: it is a file", "choose another --runs"
                ) from error
            continue
        except OSError as error:
            raise CheckpointError(
                f"cannot make the run folder {path}: {error.strerror}", "choose a writable one with --runs"
            ) from error
        return Run(path)
    raise CheckpointError(f"cannot make a run folder like {folder / stem}")


def all_runs(folder: Path) -> list[Run]:
    """Runs that have saved something, the newest last."""
    if not folder.is_dir():
        return []
    runs = [Run(path) for path in folder.iterdir() if (path / "recipe.yaml").is_file()]
    return sorted(runs, key=lambda run: (run.recipe_file.stat().st_mtime_ns, run.name))


def find_run(given: str | None, folder: Path, *, recipe: str | None = None) -> Run:
    """A run by path, by name, or (nothing given) the newest; `recipe` keeps to runs of that recipe."""
    if given is not None:
        for path in (Path(given), folder / given):
            if (path / "recipe.yaml").is_file():
                return Run(path)
        known = [run.name for run in all_runs(folder)]
        hint = f"in {folder} there are: {', '.join(known[-8:])}" if known else f"{folder} holds no run"
        raise UsageError(f"there is no run {given!r}", hint)
    runs = [run for run in all_runs(folder) if recipe is None or run.recipe().name == recipe]
    if not runs:
        what = f"no run of {recipe}" if recipe else "no run"
        raise UsageError(f"{folder} holds {what}", "train one first, for example: infomax train gim-syllables")
    return runs[-1]
