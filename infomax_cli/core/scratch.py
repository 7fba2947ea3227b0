"""Room on the disk for what memory cannot hold, in files without a name: gone with the process, however it ends."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from infomax_cli.core.files import cache_root
from infomax_cli.errors import InfomaxError

MARGIN = 2**30  # bytes of the disk that are left to others
_HINT = "make room there, or set INFOMAX_CACHE to a folder with more"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def scratch_folder() -> Path:
    return cache_root() / "scratch"


def open_scratch() -> FileIO:
    """A new file to be written and read, which has no name. Raises `InfomaxError` where there can be none."""
    folder = scratch_folder()
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # unbuffered: what does not fit fails when it is written, not once more when the file is closed
        return tempfile.TemporaryFile(dir=folder, buffering=0)


def write_scratch(file: FileIO, data: memoryview) -> None:
    """Write all of `data`. Raises `InfomaxError` where the disk is full."""
    with _told(scratch_folder()):
        while data:
            data = data[file.write(data) :]


def scratch_room() -> int:
    """Bytes that may still be written; below 0 where the margin is touched already."""
    folder = scratch_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free - MARGIN


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InfomaxError(f"the disk is full: features do not fit into {folder}", _HINT) from error
        raise InfomaxError(
            f"cannot keep features in {folder}: {os.strerror(error.errno or 0).lower()}", _HINT
        ) from error
