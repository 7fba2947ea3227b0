"""What a disk refuses, in words."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from infomax_cli.errors import DataError
from infomax_cli.paths import nearest_existing
from infomax_cli.wording import describe_error


class DiskFull(DataError):  # noqa: N818
    """Nothing more can be written there: what else is under way need not go on."""


@contextlib.contextmanager
def disk_errors(folder: Path, kept: str = "") -> Iterator[None]:
    """`OSError` as a `DataError` of one line, which ends in what is `kept`."""
    try:
        yield
    except OSError as error:
        kept = f"; {kept}" if kept else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room, then give the same command again"
            raise DiskFull(f"no space is left in {folder}{kept}", remedy) from error
        if error.errno == errno.EFBIG:
            remedy = "choose a folder on another disk with --root"
            raise DiskFull(f"a file in {folder} cannot be that large{kept}", remedy) from error
        where = error.filename2 or error.filename or folder  # of two it is the place of the second that is taken
        words = (error.strerror or describe_error(error)).lower()
        raise DataError(f"{where}: {words}{kept}", "choose another folder with --root, or mend that") from error


def write_whole(file: IO[bytes], data: bytes) -> None:
    """To a file without a buffer, of which a disk that gets full takes only a part, and says nothing yet."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def free_bytes(folder: Path) -> int:
    """On the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(nearest_existing(folder)).free
