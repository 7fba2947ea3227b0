"""Images as strided crops that know nothing of each other, encoded apart and put back on their grid.

Between the two the crops of an image stand beside each other, ``(B, N, C, h, w)``, row after row of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis


class Unfold(nn.Module):
    """An image ``(B, C, H, W)`` as crops of `crop` pixels, half a crop apart: ``(B, N, C, crop, crop)``.

    N is rows times columns; of a side of x pixels there are ``(x - crop) // (crop // 2) + 1``.
    """

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.crop = crop
        self.stride = crop // 2

    def rows(self, side: int) -> int:
        """How many crops there are along a side of so many pixels."""
        return (side - self.crop) // self.stride + 1

    def axis(self, axis: Axis) -> Axis:
        """Where the crops lie along an axis: whatever is made of one sees all of it."""
        return axis.convolve(self.crop, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        crops = x.unfold(2, self.crop, self.stride).unfold(3, self.crop, self.stride)  # (B, C, R, K, crop, crop)
        # channels last in memory, as convolutions read them fastest
        return crops.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).movedim(-1, 2)


class OnCrops(nn.Module):
    """What `layers` make of each crop alone: ``(B, N, C, h, w)`` to ``(B, N, C', h', w')``."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x.flatten(0, 1))
        return y.view(*x.shape[:2], *y.shape[1:])


class Fold(nn.Module):
    """Crops ``(B, N, C, h, w)`` on a grid of so many `rows`, each the mean of its map: ``(B, C, rows, columns)``.

    A map of 1x1, as the published encoders end their crops, is kept as it is.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        codes = x[..., 0, 0] if x.shape[-2:] == torch.Size((1, 1)) else x.mean((-2, -1))  # (B, N, C)
        return codes.reshape(x.shape[0], self.rows, -1, codes.shape[-1]).movedim(-1, 1)  # len(x) would fix B in exports
