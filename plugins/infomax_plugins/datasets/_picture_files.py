"""Image files: found below a folder, by an index that is kept, and decoded one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from infomax_cli.core.api import IMAGE_SUFFIXES, Found, IndexCache, find_files, read_image
from infomax_plugins.datasets._recordings import tell_passed_over

_SETTLED = 2_000_000_000  # nanoseconds after which a folder's time tells of every change in it


# --- finding ---------------------------------------------------------------------------------------------------------


def list_pictures(top: Path) -> dict[str, list[str]]:
    """The names of the image files, sorted, in each folder below `top`, sorted by their paths relative to it.

    "" is `top` itself; folders without images are listed, too. What is passed over (see `find_files`) is told of. The
    list is kept in the cache, until the time of one of the folders changes.
    """
    cache = IndexCache("pictures", ["2", str(top)])
    kept = cache.get(lambda: _scan(top))
    if not _holds(kept, top):
        cache.path.unlink(missing_ok=True)
        kept = cache.get(lambda: _scan(top))
    if kept["settled"] is False:
        cache.path.unlink(missing_ok=True)
    found = Found(kept["looked_at"], kept["passed_over"])
    tell_passed_over(found, top)
    return {folder: names for folder, (_, names) in found.looked_at.items()}


def _scan(top: Path) -> dict[str, Any]:
    """What is found; `settled` unless a folder has changed just now, and might again unnoticed."""
    started = time.time_ns()
    found = find_files(top, IMAGE_SUFFIXES)
    newest = max((stamp for stamp, _ in found.looked_at.values()), default=0)
    return {
        "settled": newest < started - _SETTLED,
        "looked_at": dict(sorted(found.looked_at.items())),
        "passed_over": found.passed_over,
    }


def _holds(kept: Any, top: Path) -> bool:
    """Whether no folder has changed since."""
    try:
        listings = (kept["looked_at"], kept["passed_over"])
        stamps = [(f"{top}/{folder}", stamp) for listing in listings for folder, (stamp, _) in listing.items()]
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
