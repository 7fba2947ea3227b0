"""Augmentations of images ``(C, H, W)`` in [0, 1]. Defaults are AMDIM's (Bachman, Hjelm and Buchwalter 2019).

Colours are worked on in numpy: of images of 32 to 128 pixels torchvision spends most of its time on the way to the sum.
What is made equals what torchvision's functions make of floats. Where colour means nothing, in images of another number
of channels than three, what only changes colour leaves them as they are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.api import DataSpec, scale_image
from infomax_cli.core.augment_base import Augmentation, check_at_least, check_range, reflected

Pixels = npt.NDArray[np.float32]

_LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # of red, green and blue (ITU-R BT.601)
_ATTEMPTS = 10  # to draw a crop that lies within the image


class Flip(Augmentation):
    """Mirrored along the last axis: images left to right, sound in time."""

    def __init__(self, data: DataSpec, *, p: float = 0.5) -> None:
        super().__init__(data, p=p)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        return x.flip(-1)


class Translate(Augmentation):
    """Moved by a whole number of pixels, up to `pixels` along each axis; what comes in is the mirror image."""

    medium = "images"

    def __init__(self, data: DataSpec, *, pixels: int = 4, p: float = 0.8) -> None:
        super().__init__(data, p=p)
        check_at_least(0, pixels=pixels)
        self.pixels = pixels

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        rows, columns = (self._places(length, random) for length in x.shape[-2:])
        return torch.from_numpy(x.numpy().take(rows, axis=1).take(columns, axis=2))

    def _places(self, length: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        most = min(self.pixels, length - 1)
        return reflected(length, int(random.integers(-most, most, endpoint=True)))


class RandomCrop(Augmentation):
    """A part of the size that the encoder sees, anywhere in the image; one that is too small is enlarged first."""

    medium = "images"

    def __init__(self, data: DataSpec) -> None:
        super().__init__(data)
        self.height, self.width = data.grid

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        height, width = x.shape[-2:]
        factor = max(self.height / height, self.width / width)
        if factor > 1:
            height, width = math.ceil(factor * height - 1e-6), math.ceil(factor * width - 1e-6)
            x = scale_image(x, height, width)
        top = int(random.integers(height - self.height, endpoint=True))
        left = int(random.integers(width - self.width, endpoint=True))
        return x[:, top : top + self.height, left : left + self.width]


class RandomResizedCrop(Augmentation):
    """A part with a share of the area drawn from `scale` and an aspect drawn from `ratio`, brought to the size that the
    encoder sees. Aspects, width to height, are even in their logarithm (Szegedy et al. 2015); pixels are bicubic."""

    medium = "images"

    def __init__(
        self, data: DataSpec, *, scale: tuple[float, float] = (0.3, 1.0), ratio: tuple[float, float] = (0.7, 1.4)
    ) -> None:
        super().__init__(data)
        self.grid = data.grid
        self.scale = check_range("scale", scale, least=1e-4, most=1)
        self.ratio = check_range("ratio", ratio, least=1e-2, most=1e2)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        top, left, height, width = self._box(x.shape[-2], x.shape[-1], random)
        return scale_image(x[:, top : top + height, left : left + width], *self.grid)

    def _box(self, height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width; the largest in the middle where none of several that were drawn fits."""
        low, high = map(math.log, self.ratio)
        for _ in range(_ATTEMPTS):
            area = height * width * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(low, high))
            tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < tall <= height and 0 < wide <= width:
                top = int(random.integers(height - tall, endpoint=True))
                return top, int(random.integers(width - wide, endpoint=True)), tall, wide
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        tall, wide = max(1, min(height, round(width / aspect))), max(1, min(width, round(height * aspect)))
        return (height - tall) // 2, (width - wide) // 2, tall, wide


class ColorJitter(Augmentation):
    """Brightness, contrast and saturation times a factor within 1 +- their strength, and hue turned by up to `hue` of
    the circle, in an order that is drawn as well."""

    medium = "images"

    def __init__(
        self,
        data: DataSpec,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        p: float = 0.8,
    ) -> None:
        super().__init__(data, p=p)
        check_at_least(0, brightness=brightness, contrast=contrast, saturation=saturation)
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is {hue:g}, but must be between 0 and 0.5")
        factors = {adjust_brightness: brightness, adjust_contrast: contrast, adjust_saturation: saturation}
        ranges = {adjust: (max(0.0, 1 - strength), 1 + strength) for adjust, strength in factors.items() if strength}
        self.ranges = list((ranges | ({adjust_hue: (-hue, hue)} if hue else {})).items())

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        pixels = x.numpy()
        for place in random.permutation(len(self.ranges)):
            adjust, (low, high) = self.ranges[place]
            pixels = adjust(pixels, random.uniform(low, high))
        return torch.from_numpy(pixels)


class Grayscale(Augmentation):
    """Without colour, in as many channels as before."""

    medium = "images"

    def __init__(self, data: DataSpec, *, p: float = 0.25) -> None:
        super().__init__(data, p=p)

    def apply(self, x: Tensor, random: np.random.Generator) -> Tensor:
        pixels = x.numpy()
        return torch.from_numpy(np.repeat(_grey(pixels), 3, axis=0)) if _has_colour(pixels) else x


# --- colours ---------------------------------------------------------------------------------------------------------


def adjust_brightness(pixels: Pixels, factor: float) -> Pixels:
    return _within(pixels * factor)


def adjust_contrast(pixels: Pixels, factor: float) -> Pixels:
    """Every pixel nearer to (or, above 1, farther from) the mean of the grey image."""
    grey = _grey(pixels) if _has_colour(pixels) else pixels
    return _within(pixels * factor + float(grey.mean()) * (1 - factor))


def adjust_saturation(pixels: Pixels, factor: float) -> Pixels:
    """Every pixel nearer to (or, above 1, farther from) its own grey."""
    if not _has_colour(pixels):
        return pixels
    return _within(pixels * factor + _grey(pixels) * (1 - factor))


def adjust_hue(pixels: Pixels, turn: float) -> Pixels:
    """The hue turned by `turn` of the circle, with value and chroma as they are: there to HSV and back in one go."""
    if not _has_colour(pixels):
        return pixels
    red, green, blue = pixels
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1e-12)  # of a grey pixel any hue will do
    hue = np.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    hue = np.where(value == red, (green - blue) / divisor, hue)  # in sixths of the circle, (H, W)
    # a channel is value - chroma * min(k, 4 - k) within [0, 1], where k is how far round it lies, modulo 6
    way = hue + (_CHANNEL_OFFSETS + np.float32(6 * turn))  # (3, H, W)
    way -= 6 * np.floor(way / 6)
    share = _within(np.minimum(way, 4 - way))
    share *= -chroma
    share += value
    return share


_CHANNEL_OFFSETS = np.array([5, 3, 1], dtype=np.float32).reshape(3, 1, 1)


def _has_colour(pixels: Pixels) -> bool:
    return len(pixels) == 3


def _grey(pixels: Pixels) -> Pixels:
    """``(3, H, W)`` to ``(1, H, W)``."""
    return (_LUMA @ pixels.reshape(3, -1)).reshape(1, *pixels.shape[1:])


def _within(pixels: Pixels) -> Pixels:
    """Clipped to [0, 1], in place."""
    np.maximum(pixels, 0, out=pixels)
    np.minimum(pixels, 1, out=pixels)
    return pixels
