"""MNIST's files: arrays of bytes after a header that gives their shape, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._pictures import Bytes, InMemory, Mapped, Pictures

_UBYTE = 0x08  # the code for bytes, the only type that images have
_DAMAGED = "Copy or download it again."


def read_shape(path: Path, axes: int) -> tuple[int, ...]:
    """The shape that a file's header gives, of so many `axes`. Raises `DataError` where it is no such file."""
    with _reading(path) as file:
        header = _read(path, file, 4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:2] != b"\0\0" or header[2] != _UBYTE or header[3] != axes:
        raise DataError(
            f"{path} is no idx file of bytes with {axes} axes: it begins with {header[:4].hex(' ') or 'nothing'}",
            f"It should begin with 00 00 08 {axes:02x}. {_DAMAGED}",
        )
    return tuple(int(side) for side in np.frombuffer(header, ">u4", offset=4))


def read_array(path: Path, axes: int) -> Bytes:
    """All that is in a file. Raises `DataError` where it is not as much as its header says, or cannot be read."""
    shape = read_shape(path, axes)
    start, count = 4 + 4 * axes, math.prod(shape)
    with _reading(path) as file:
        content = _read(path, file, start + count + 1)[start:]
    if len(content) != count:
        raise _wrong_length(path, shape, "more" if len(content) > count else f"{len(content):,}")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def open_pictures(path: Path, kind: str) -> Pictures:
    """Grey images ``(1, H, W)``: mapped where the file is plain, in memory where it is gzipped."""
    if path.suffix == ".gz":
        return InMemory(kind, read_array(path, 3)[:, None])
    count, height, width = read_shape(path, 3)
    length = path.stat().st_size - 16
    if length != count * height * width:
        raise _wrong_length(path, (count, height, width), f"{length:,}")
    return Mapped(kind, path, (count, 1, height, width), offset=16)


def _wrong_length(path: Path, shape: tuple[int, ...], found: str) -> DataError:
    said = " x ".join(map(str, shape))
    return DataError(f"{path} is damaged: its header says {said} bytes, and {found} follow", _DAMAGED)


def _reading(path: Path) -> IO[bytes]:
    try:
        return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read(path: Path, file: IO[bytes], count: int) -> bytes:
    try:
        return file.read(count)
    except (OSError, EOFError, zlib.error) as error:  # gzip's BadGzipFile is an OSError
        raise DataError(f"{path} is damaged, or cut short: {error}", _DAMAGED) from error
