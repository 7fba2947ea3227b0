"""Image files: found below a folder, by an index that is kept, and decoded one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from infomax_cli.core.api import IMAGE_SUFFIXES, DataError, IndexCache, read_image

_SETTLED = 2_000_000_000  # nanoseconds after which a folder's time tells of every change in it


# --- finding ---------------------------------------------------------------------------------------------------------


def list_pictures(top: Path) -> dict[str, list[str]]:
    """The names of the image files, sorted, in each folder below `top`, sorted by their paths relative to it.

    "" is `top` itself; folders without images are listed, too. Links are followed, hidden files and folders are not
    looked at. The list is kept in the cache, until the time of one of the folders changes.
    """
    cache = IndexCache("pictures", ["1", str(top)])
    found = cache.get(lambda: _scan(top))
    if not _holds(found, top):
        cache.path.unlink(missing_ok=True)
        found = cache.get(lambda: _scan(top))
    if found["settled"] is False:
        cache.path.unlink(missing_ok=True)
    return {folder: names for folder, (_, names) in found["folders"].items()}


def _scan(top: Path) -> dict[str, Any]:
    """By folder its time, and the names in it; `settled` unless one has changed just now, and might again unnoticed."""
    folders: dict[str, tuple[int, list[str]]] = {}
    seen: set[tuple[int, int]] = set()
    started = time.time_ns()
    for where, inner, files in os.walk(top, followlinks=True, onerror=_refuse):
        status = os.stat(where)  # noqa: PTH116 - beside os.walk
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = [name for name in inner if not name.startswith(".")]
        names = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        relative = os.path.relpath(where, top)
        folders["" if relative == "." else relative] = (status.st_mtime_ns, sorted(names))
    newest = max((stamp for stamp, _ in folders.values()), default=0)
    return {"settled": newest < started - _SETTLED, "folders": dict(sorted(folders.items()))}


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def _holds(found: Any, top: Path) -> bool:
    """Whether no folder has changed since."""
    try:
        stamps = [(f"{top}/{folder}", stamp) for folder, (stamp, _) in found["folders"].items()]
        return all(os.stat(path).st_mtime_ns == stamp for path, stamp in stamps)  # noqa: PTH116 - thousands of them
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return False


# --- decoding --------------------------------------------------------------------------------------------------------


class PictureFiles:
    """Image files by their paths below `top`, decoded as they are needed; see `read_picture`. Their names are the paths
    after `prefix`.

    A million paths are one string of bytes, which processes share.
    """

    def __init__(self, top: Path, paths: Sequence[str], prefix: str = "", *, grey: bool) -> None:
        self.top, self.prefix, self.grey = top, prefix, grey
        encoded = [os.fsencode(path) for path in paths]
        self._text = b"".join(encoded)
        self._edges = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._edges) - 1

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.top / self._path(index), grey=self.grey)

    def name(self, index: int) -> str:
        return self.prefix + self._path(index)

    def _path(self, index: int) -> str:
        return os.fsdecode(self._text[self._edges[index] : self._edges[index + 1]])
