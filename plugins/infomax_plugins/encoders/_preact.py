"""Residual blocks with their ReLUs first and without normalisation (He et al. 2016b; Löwe et al. 2019, appendix A)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, beside a shortcut: ``(N, C, h, w)`` to ``(N, width, h', w')``.

    The shortcut is a 1x1 convolution of the first ReLU's output where the shape changes, else the input as it is.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(x)
        y = self.conv2(F.relu_(self.conv1(active)))
        return torch.add(y, x if self.shortcut is None else self.shortcut(active))


class PreActBottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, each after a ReLU, beside a shortcut: to four times `width` channels.

    ``(N, C, h, w)`` to ``(N, 4 width, h', w')``. The 3x3 convolution has the stride; the shortcut is that of
    `PreActBlock`.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1)
        self.shortcut = _shortcut(channels, self.expansion * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(x)
        y = self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(active)))))
        return torch.add(y, x if self.shortcut is None else self.shortcut(active))


def _shortcut(channels: int, width: int, stride: int) -> nn.Conv2d | None:
    return nn.Conv2d(channels, width, 1, stride) if stride != 1 or channels != width else None


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, gain: float = 1.0) -> None:
    """Fill the kernel ``(out, in, h, w)`` with zeros but for its centre tap: `gain` times an orthogonal matrix.

    The matrix is uniform among those with orthonormal columns, so that norms are kept (Xiao et al. 2018, algorithm 1).
    That takes as many outputs as inputs; where there are fewer its rows are orthonormal, which keeps the norms of the
    gradients that come back, and of what goes forward the part in the space of its rows.
    """
    nn.init.zeros_(weight)
    centre = torch.empty(weight.shape[:2], dtype=weight.dtype, device=weight.device)
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = nn.init.orthogonal_(centre, gain)
