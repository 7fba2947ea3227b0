"""Images as tensors ``(C, H, W)`` in [0, 1]: brought to the size that an encoder takes."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def grey_image(x: Tensor) -> Tensor:
    """``(C, H, W)`` to ``(1, H, W)``: the luma of red, green and blue; what is grey stays as it is."""
    return x if len(x) == 1 else (x * x.new_tensor(_LUMA).view(-1, 1, 1)).sum(0, keepdim=True)


def scale_image(x: Tensor, height: int, width: int) -> Tensor:
    """``(C, H, W)`` to ``(C, height, width)``: bicubic, smoothed first where it shrinks, and kept within [0, 1]."""
    if x.shape[-2:] == (height, width):
        return x
    scaled = F.interpolate(x[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0].clamp_(0, 1)


def fit_image(x: Tensor, grid: tuple[int, int], shorter: int | None = None) -> Tensor:
    """The middle of an image, ``(C, H, W)`` to ``(C, *grid)``.

    The image is first scaled so that its shorter side has `shorter` pixels; without `shorter` it is scaled only where
    it is smaller than the grid, just so far that it covers it.
    """
    height, width = x.shape[-2:]
    least = max(grid[0] / height, grid[1] / width)
    factor = max(least, 1.0) if shorter is None else max(least, shorter / min(height, width))
    if factor != 1.0:
        height, width = math.ceil(factor * height - 1e-6), math.ceil(factor * width - 1e-6)
        x = scale_image(x, height, width)
    top, left = (height - grid[0]) // 2, (width - grid[1]) // 2
    return x[..., top : top + grid[0], left : left + grid[1]].contiguous()
