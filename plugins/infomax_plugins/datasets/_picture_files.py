"""Image files: found below a folder, by an index that is kept, and decoded one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from infomax_cli.core.api import DataError, IndexCache

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")

_SETTLED = 2_000_000_000  # nanoseconds after which a folder's time tells of every change in it
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey, of 16 bits


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
        names = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
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
        return read_picture(self.top / self._path(index), grey=self.grey)

    def name(self, index: int) -> str:
        return self.prefix + self._path(index)

    def _path(self, index: int) -> str:
        return os.fsdecode(self._text[self._edges[index] : self._edges[index + 1]])


def read_picture(path: Path, *, grey: bool = False) -> Tensor:
    """An image file as ``(3, H, W)``, or ``(1, H, W)`` where it is to be `grey`, float32 in [0, 1].

    It is turned as its EXIF data says; palettes, CMYK and grey become RGB, what is transparent shows its colour, of
    several pictures the first is taken, and 16 bits keep their precision. Raises `DataError` where it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            file.load()
            return _tensor(_upright(file), grey=grey)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"cannot read the image {path}: {lines[0]}") from error


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # its EXIF data is damaged, which is no reason to lose the image
        return image


def _tensor(image: Image, *, grey: bool) -> Tensor:
    if image.mode in _DEEP or image.mode == "F":
        values = torch.from_numpy(np.asarray(image).astype(np.float32)).unsqueeze(0)
        values = (values if image.mode == "F" else values / 65535).clamp(0, 1)
        return values if grey else values.expand(3, -1, -1).contiguous()
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    values = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
    values = values.unsqueeze(0) if grey else values.permute(2, 0, 1)  # (C, H, W)
    return values.to(torch.float32, memory_format=torch.contiguous_format) / 255
