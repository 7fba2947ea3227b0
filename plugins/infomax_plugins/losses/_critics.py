"""Networks that embed a local map and a global, so that dot products score their pairs."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from infomax_cli.core.api import DoesNotFit, MapSpec

_NOISE = 0.01  # of a shortcut that begins as all but the identity
_LEAST_SIDE = 4  # a trunk's convolutions halve an axis until it is this short
_WIDEST = 512  # and double the channels up to so many
_HIDDEN = 1024  # then come fully connected units


class MI1x1ConvNet(nn.Module):
    """The scoring network of Deep InfoMax: two 1x1 convolutions and a shortcut, then layer normalisation over channels.

    It reads the positions of a map of any number of axes as rows, ``(B, L, C)`` to ``(B, L, units)``. The shortcut
    starts as the identity with a little noise, where there are units enough (published code of Hjelm et al. 2019).
    """

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(channels, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(inplace=True),
            nn.Linear(units, units),
        )
        self.shortcut = nn.Linear(channels, units, bias=False)
        if units >= channels:
            nn.init.uniform_(self.shortcut.weight, -_NOISE, _NOISE)
            with torch.no_grad():
                self.shortcut.weight.fill_diagonal_(1.0)
        self.norm = nn.LayerNorm(units)

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.flatten(0, 1)  # (B L, C)
        embedded: Tensor = self.norm(self.block(flat) + self.shortcut(flat))
        return embedded.view(*rows.shape[:2], -1)


class ConvTrunk(nn.Module):
    """A local map ``(B, C, *grid)`` of one or two axes to one vector ``(B, units)``: the local half of DIM(G).

    Strided convolutions with batch normalisation, as in Deep InfoMax's encoders: each halves the axes longer than 4
    and doubles the channels, to 512 at most; then a fully connected layer of 1024 units, and one of `units`.
    """

    def __init__(self, given: MapSpec, units: int) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        channels, grid = given.channels, given.grid
        while max(grid) > _LEAST_SIDE:
            wider = max(channels, min(2 * channels, _WIDEST))
            convs += _halving(channels, wider, grid)
            channels, grid = wider, tuple(side // 2 if side > _LEAST_SIDE else side for side in grid)
        self.convs = nn.Sequential(*convs)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * prod(grid), _HIDDEN, bias=False),
            nn.BatchNorm1d(_HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, units),
        )

    def forward(self, x: Tensor) -> Tensor:
        vector: Tensor = self.head(self.convs(x))
        return vector


def check_axes(given: MapSpec, loss: str) -> None:
    """Raise `DoesNotFit` for a map that a `ConvTrunk` cannot read."""
    if len(given.grid) not in (1, 2):
        raise DoesNotFit(f"{loss} convolves a local map of one or two axes, but this one has {len(given.grid)}")


def _halving(channels: int, wider: int, grid: tuple[int, ...]) -> list[nn.Module]:
    """A convolution that halves (rounding down) the axes that are long, its norm and a ReLU."""
    long = [side > _LEAST_SIDE for side in grid]
    kernel, stride = tuple(4 if each else 3 for each in long), tuple(2 if each else 1 for each in long)
    if len(grid) == 1:
        conv: nn.Module = nn.Conv1d(channels, wider, kernel[0], stride[0], padding=1, bias=False)
        return [conv, nn.BatchNorm1d(wider), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(channels, wider, (kernel[0], kernel[1]), (stride[0], stride[1]), padding=1, bias=False)
    return [conv, nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
