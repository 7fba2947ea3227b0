"""Files below a folder: those that are looked at, and those that are passed over.

Which are which depends on names below the folder alone: one in ``~/.cache`` is as good as any.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from infomax_cli.errors import DataError

Listing = dict[str, tuple[int, list[str]]]
"""By the path of each folder, relative to the top ("" is the top): when it last changed, in nanoseconds, and the names
of files in it, sorted."""

# folders that systems leave within those of users, and that are nobody's data
_OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


@dataclass(frozen=True)
class Found:
    """`looked_at` has every folder, `passed_over` those with files that are hidden, or lie in a hidden folder or in one
    of a system's own. What macOS leaves beside a file ("._name.flac") is no file of anybody's, and in neither."""

    looked_at: Listing = field(default_factory=dict)
    passed_over: Listing = field(default_factory=dict)


def paths_of(listing: Listing) -> list[str]:
    """Relative to the top, sorted."""
    return sorted(f"{folder}/{name}" if folder else name for folder, (_, names) in listing.items() for name in names)


def find_files(top: Path, suffixes: Collection[str]) -> Found:
    """All files below `top` with one of these suffixes (lower case). Links are followed, each folder once.

    Raises `DataError` where a folder cannot be listed.
    """
    found, endings = Found(), tuple(suffixes)
    for where, folders, names, changed in _walk(top):
        relative = _relative(where, top)
        wanted = sorted(name for name in names if name.lower().endswith(endings))
        found.looked_at[relative] = (changed, [name for name in wanted if not name.startswith(".")])
        if hidden := [name for name in wanted if name.startswith(".") and not name.startswith("._")]:
            found.passed_over[relative] = (changed, hidden)
        for name in filter(_is_passed_over, folders):
            found.passed_over.update(_list_passed_over(f"{where}/{name}", top, endings))
        folders[:] = sorted(name for name in folders if not _is_passed_over(name))
    return found


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Each folder, the folders in it, which whoever asks may thin out, its files, and when it last changed."""
    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(top, followlinks=True, onerror=_refuse):
        status = os.stat(where)  # noqa: PTH116 - beside os.walk
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield where, folders, names, status.st_mtime_ns


def _refuse(error: OSError) -> None:
    raise DataError(
        f"cannot list {error.filename}: {error.strerror}", "ask for the permission, or name another folder"
    ) from error


def _is_passed_over(folder: str) -> bool:
    return folder.startswith(".") or folder in _OF_SYSTEMS


def _list_passed_over(folder: str, top: Path, endings: tuple[str, ...]) -> Listing:
    """Only to be told of: what cannot be listed is not."""
    listing: Listing = {}
    for where, _, names in os.walk(folder):
        if wanted := sorted(name for name in names if name.lower().endswith(endings) and not name.startswith("._")):
            listing[_relative(where, top)] = (os.stat(where).st_mtime_ns, wanted)  # noqa: PTH116 - beside os.walk
    return listing


def _relative(where: str, top: Path) -> str:
    relative = os.path.relpath(where, top)
    return "" if relative == "." else relative
