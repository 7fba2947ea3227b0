"""Reading image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from infomax_cli.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey, of 16 bits


def read_image(path: Path, *, grey: bool = False) -> Tensor:
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
