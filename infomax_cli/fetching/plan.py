"""What there is to be done to have subsets of a dataset whole. Looks at the disk, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from infomax_cli.errors import DataError, UsageError
from infomax_cli.fetching.archives import TAR, ZIP, unpacked_name
from infomax_cli.fetching.catalogue import RemoteFile, Subset
from infomax_cli.fetching.disk import DiskFull, free_bytes
from infomax_cli.fetching.http import Patience
from infomax_cli.fetching.store import Condition, Store, look, read_marker
from infomax_cli.fetching.watch import Watch, counting
from infomax_cli.wording import describe_bytes, suggest


@dataclass(frozen=True, kw_only=True)
class Options:
    """`mirror`: an address under which all files lie, in place of their own. `files`: files that are here already.
    `verify`: look at what is in the files that are there, and mend it. `jobs`: files fetched at once."""

    mirror: str | None = None
    files: tuple[Path, ...] = ()
    keep_archive: bool = False
    verify: bool = False
    jobs: int = 3
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Task:
    """A subset, how it is, and the files to fetch for it; none where there is nothing to do.

    `missing` are the bytes that are still to come, or the least that it can be where it is not `exact`; `room` is what
    the subset takes on disk beside them.
    """

    name: str
    subset: Subset
    folder: Path
    condition: Condition
    files: tuple[RemoteFile, ...]
    missing: int
    exact: bool
    room: int

    @property
    def mends(self) -> bool:
        """Whether only some of its files are to be put right."""
        return self.condition.state == "damaged"

    @property
    def did(self) -> Literal["nothing", "downloaded", "mended", "not checked"]:
        """What will have become of the subset."""
        if self.files:
            return "downloaded" if self.condition.state == "absent" else "mended"
        return "nothing" if self.condition.state == "whole" else "not checked"


def plan(store: Store, subsets: Mapping[str, Subset], options: Options, watch: Watch) -> list[Task]:
    """Raises `UsageError` where `options.files` are not there, or none of those wanted, and `DataError` where something
    else lies in the place of a folder."""
    names = [a.name for subset in subsets.values() for file in subset.files for a in file.alternatives()]
    for path in options.files:
        if not path.is_file():
            raise UsageError(f"--file {path}: there is no such file", "give the path of a file that is here already")
        if path.name not in names:
            known = list(dict.fromkeys(names))
            raise UsageError(f"--file {path}: not a file of this dataset", suggest(path.name, known))
    return [_plan_one(store, name, subset, options, watch) for name, subset in subsets.items()]


def _plan_one(store: Store, name: str, subset: Subset, options: Options, watch: Watch) -> Task:
    folder = store.folder(subset)
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(
            f"{folder} is in the way: it is no folder, and one of that name is to hold the data",
            "move it elsewhere, or choose another folder with --root",
        )
    condition = _examine(folder, subset, options, watch)
    damaged = condition.state == "damaged"
    if condition.state in ("absent", "incomplete") or (condition.state == "unmarked" and options.verify):
        files = subset.files
    elif damaged:
        files = tuple(file for file in subset.files if _may_hold(file, condition.damaged))
    else:
        files = ()
    missing = [_missing(store, file, options) for file in files]
    known = [count for count in missing if count is not None]
    room = (subset.unpacked or 3 * sum(known)) if files and not damaged else 0
    return Task(name, subset, folder, condition, files, sum(known), len(known) == len(missing), room)


def _examine(folder: Path, subset: Subset, options: Options, watch: Watch) -> Condition:
    files = read_marker(folder) if options.verify else None
    if not files:
        return look(folder, subset)
    with counting(watch, f"checking {subset.folder}", sum(size for size, _ in files.values())) as advance:
        return look(folder, subset, contents=True, advance=advance)


def _may_hold(remote: RemoteFile, paths: Collection[str]) -> bool:
    """Whether any of these unpacked files may come from it; of an archive nobody knows without looking."""
    names = [candidate.name for candidate in remote.alternatives()]
    return any(name.endswith(TAR + ZIP) or unpacked_name(name) in paths for name in names)


def _missing(store: Store, remote: RemoteFile, options: Options) -> int | None:
    """The bytes of a file that are to be fetched; None where nobody says."""
    if any(places(store, candidate, options) for candidate in remote.alternatives()):
        return 0
    if remote.size is None:
        return None
    part = store.downloads / f"{remote.name}.part"
    return max(0, remote.size - (part.stat().st_size if part.exists() else 0))


def places(store: Store, remote: RemoteFile, options: Options) -> list[Path]:
    """Where a file of this name and size lies already, those of the user first."""
    given = [path for path in options.files if path.name == remote.name and path.is_file()]
    ours = [store.downloads / remote.name, store.archives / remote.name]
    # a name alone makes no file of a stranger's ours
    others = [store.root / remote.name] if remote.digest is not None else []
    here = [path for path in (*ours, *others) if path.is_file()]
    return given + [path for path in here if remote.size in (None, path.stat().st_size)]


def describe_need(tasks: Sequence[Task], store: Store) -> str:
    """How much it will be, on one line. Where there is no room for it, `require_room` says so."""
    least = "" if all(task.exact for task in tasks) else "at least "
    missing, room = sum(task.missing for task in tasks), sum(task.room for task in tasks)
    return (
        f"{least}{describe_bytes(missing)} to download, about {describe_bytes(room)} unpacked; "
        f"{describe_bytes(free_bytes(store.root))} are free in {store.root}"
    )


def require_room(tasks: Sequence[Task], store: Store) -> None:
    """Raises `DiskFull` where the disk has no room for what is to come."""
    needed, free = sum(task.missing + task.room for task in tasks), free_bytes(store.root)
    if needed > free:
        raise DiskFull(
            f"{describe_bytes(needed)} are needed in {store.root}, and {describe_bytes(free)} are free",
            "make room, choose another folder with --root, or take less with --subset",
        )
