"""What lies on disk, and whether it is whole.

A folder of data holds a marker, ``.infomax.json``, that lists its files with their sizes and stamps. The folder is made
aside, marker and all, and gets its name in one step: where there is a marker there is all of it. Downloads lie in
``ROOT/.downloads/DATASET``, archives that are to be kept in ``ROOT/archives/DATASET``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infomax_cli.core.files import hold, write_text
from infomax_cli.errors import DataError
from infomax_cli.fetching import digests
from infomax_cli.fetching.archives import Unpacked
from infomax_cli.fetching.catalogue import Subset
from infomax_cli.fetching.disk import disk_errors

MARKER = ".infomax.json"

State = Literal["absent", "whole", "damaged", "unmarked", "incomplete"]
"""``unmarked``: somebody else put it there; ``incomplete``: and not all of it."""


@dataclass(frozen=True)
class Condition:
    """How a folder of data is. `damaged` are the files that are missing or not as they were."""

    state: State
    damaged: tuple[str, ...] = ()


def _nobody(count: int) -> None: ...


def look(folder: Path, subset: Subset, *, contents: bool = False, advance: Callable[[int], Any] = _nobody) -> Condition:
    """How a folder is, by the names and sizes of its files; by all that is in them where `contents` are asked for."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return Condition("absent")
    files = read_marker(folder)
    if files is None:
        return Condition("incomplete" if _lacks(folder, subset) else "unmarked")
    damaged = [path for path, stamp in files.items() if not _is_as_it_was(folder / path, stamp, contents, advance)]
    return Condition("damaged", tuple(damaged)) if damaged else Condition("whole")


def _lacks(folder: Path, subset: Subset) -> bool:
    """Whether a folder of unknown origin has fewer files than are published."""
    if subset.count is None:
        return False
    ending, count = subset.count
    return sum(name.endswith(ending) for _, _, names in os.walk(folder, followlinks=True) for name in names) < count


def _is_as_it_was(path: Path, stamp: tuple[int, str], contents: bool, advance: Callable[[int], Any]) -> bool:
    size, digest = stamp
    try:
        if path.stat().st_size != size:
            return False
        return not contents or digests.stamp(path, advance) == digest
    except OSError:
        return False


def read_marker(folder: Path) -> Unpacked | None:
    """The files that a folder should have; None where it has no marker, or one that makes no sense."""
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        return {str(path): (int(size), str(stamp)) for path, (size, stamp) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_marker(folder: Path, dataset: str, name: str, files: Unpacked) -> None:
    content = {"dataset": dataset, "subset": name, "files": {path: files[path] for path in sorted(files)}}
    with disk_errors(folder):
        write_text(folder / MARKER, json.dumps(content, indent=0))


# --- where things lie ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """The places of a dataset under a data root."""

    root: Path
    dataset: str

    @property
    def downloads(self) -> Path:
        return self.root / ".downloads" / self.dataset

    @property
    def archives(self) -> Path:
        return self.root / "archives" / self.dataset

    def folder(self, subset: Subset) -> Path:
        return self.root / subset.folder

    def making(self, subset: Subset) -> Path:
        """Where a folder is made, beside its place, so that it is on the same disk."""
        folder = self.folder(subset)
        return folder.with_name(f".{folder.name}.unpacking")

    def came(self) -> int:
        """Bytes that are here and not unpacked yet."""
        files = [path for path in self.downloads.glob("[!.]*") if not path.name.endswith(".json")]
        return sum(path.stat().st_size for path in files)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Against a second process that would get the same dataset into the same root."""
        with disk_errors(self.root):
            self.downloads.mkdir(parents=True, exist_ok=True)
        busy = DataError(f"another process is downloading {self.dataset} to {self.root}", "wait for it, or stop it")
        with disk_errors(self.root), hold(self.downloads / ".lock", busy):
            for leftover in self.downloads.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            yield


# --- putting a folder in its place -----------------------------------------------------------------------------------


def put_in_place(made: Path, folder: Path) -> None:
    """Give a folder that was made aside its name. Where the place is taken its files take those of their names there,
    the marker last."""
    with disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        else:
            return
        for path in _files_of(made):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (made / path).replace(target)
        shutil.rmtree(made)


def _files_of(folder: Path) -> list[Path]:
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    return sorted(files, key=lambda path: (path.name == MARKER, path))
