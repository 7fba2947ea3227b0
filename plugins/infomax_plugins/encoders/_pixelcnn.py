"""The context of CPC on images: a gated PixelCNN that reads a grid from the top down (Oord et al. 2016b, 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelCNN(nn.Module):
    """Gated layers over a map ``(B, C, H, W)``, then a 1x1 convolution; of the same shape, and causal down the rows.

    The context at row ``y`` knows rows ``0 .. y`` in their full width: the published network (Löwe et al. 2019) masks
    what lies below and nothing else. What it keeps without use is left out here: the masked row of its kernels, and
    what the last layer would hand on to a vertical stack that ends there.
    """

    def __init__(self, channels: int, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedLayer(channels, first=index == 0, last=index == layers - 1) for index in range(layers)
        )
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        context: Tensor = self.output(horizontal)
        return context


class GatedLayer(nn.Module):
    """One layer of both stacks: the vertical reads 2x3 (a row and the one above), the horizontal 1x3 and the vertical.

    Oord et al. 2016b, figure 2. Each stack's features are gated, ``tanh(a) * sigmoid(b)``; but for the `first` layer
    both have a residual connection. The `last` hands on its vertical input as it is: nothing reads it.
    """

    def __init__(self, channels: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3), padding=(0, 1))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)  # from the vertical stack to the horizontal
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, 3), padding=(0, 1))
        self.output = nn.Conv2d(channels, channels, 1)
        self.residual = None if first or last else nn.Conv2d(channels, 2 * channels, 1)
        self.first, self.last = first, last

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.vertical(F.pad(vertical, (0, 0, 1, 0)))  # a row of zeros above: outputs see no row below their own
        out = self.output(_gate(self.horizontal(horizontal) + self.across(seen)))
        if not self.first:
            out = horizontal + out
        if self.last:
            return vertical, out
        if self.residual is not None:
            seen = seen + self.residual(vertical)
        return _gate(seen), out


def _gate(x: Tensor) -> Tensor:
    """``(B, 2 C, H, W)`` to ``(B, C, H, W)``."""
    value, gate = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)
