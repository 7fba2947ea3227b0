"""What stages on images are made of: convolutions, fully connected layers, and the shape of their windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

Norm = Literal["batch", "none"]


@dataclass(frozen=True)
class Window:
    """The shape of a convolution or a pool, the same along both axes."""

    kernel: int
    stride: int = 1
    padding: int = 0

    def count(self, side: int) -> int:
        """How many of them there are along a side; none or less where it is too short for one."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def axis(self, axis: Axis) -> Axis:
        return axis.convolve(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class StageSpec(ABC):
    """A stage before it is built; `width` is how many channels come out."""

    width: int

    @abstractmethod
    def build(self, channels: int, side: int) -> nn.Module:
        """The stage for a map ``(B, channels, side, side)``."""

    @abstractmethod
    def windows(self, side: int) -> tuple[Window, ...]:
        """What lies between the positions of such a map and those of the stage's output, one after the other."""


@dataclass(frozen=True)
class Conv(StageSpec):
    """A convolution, dropout of whole channels, batch normalisation, ReLU, and a max pool.

    `init_std` draws the weights from a normal distribution instead of torch's uniform one.
    """

    window: Window
    pool: Window | None = None
    dropout: float = 0.0
    norm: Norm = "batch"
    bias: bool = False
    init_std: float | None = None

    def build(self, channels: int, side: int) -> nn.Module:
        return self.on(channels)

    def on(self, channels: int) -> nn.Sequential:
        """The stage for a map of any size."""
        shape = self.window
        conv = nn.Conv2d(channels, self.width, shape.kernel, shape.stride, shape.padding, bias=self.bias)
        layers = _finished(conv, self.init_std, self.dropout, self.norm)
        if self.pool is not None:
            layers["pool"] = nn.MaxPool2d(self.pool.kernel, self.pool.stride, self.pool.padding)
        return nn.Sequential(layers)

    def windows(self, side: int) -> tuple[Window, ...]:
        return (self.window,) if self.pool is None else (self.window, self.pool)


@dataclass(frozen=True)
class Dense(StageSpec):
    """A fully connected layer, dropout, batch normalisation and ReLU: a map to ``(B, width, 1, 1)``."""

    dropout: float = 0.0
    bias: bool = False
    init_std: float | None = None

    def build(self, channels: int, side: int) -> nn.Module:
        conv = GridConv(channels, self.width, side, bias=self.bias)
        return nn.Sequential(_finished(conv, self.init_std, self.dropout, "batch"))

    def windows(self, side: int) -> tuple[Window, ...]:
        return (Window(side),)


@dataclass(frozen=True)
class Linear(StageSpec):
    """A fully connected layer alone, with a bias: the code at the top of an encoder."""

    def build(self, channels: int, side: int) -> nn.Module:
        return GridConv(channels, self.width, side)

    def windows(self, side: int) -> tuple[Window, ...]:
        return (Window(side),)


class GridConv(nn.Conv2d):
    """A fully connected layer as a convolution whose kernel is the grid: ``(B, C, side, T)`` to ``(B, C', 1, T')``.

    T' is 1 where T is the side. On a longer map it slides along the last axis, one position at a time. It is computed
    as a matrix product, which takes a seventh of the time of `nn.Conv2d` with its gradients (256@4x4 to 1024, batch 64,
    one core).
    """

    def __init__(self, channels: int, width: int, side: int, bias: bool = True) -> None:
        super().__init__(channels, width, side, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(3, self.kernel_size[1], 1)  # (B, C, side, T', side)
        rows = windows.permute(0, 3, 1, 2, 4).flatten(2)  # (B, T', C side side)
        y = F.linear(rows, self.weight.flatten(1), self.bias)  # (B, T', C')
        return y.transpose(1, 2).unsqueeze(2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position, ``(B, C, *grid)`` in and out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; what it cannot learn from is refused in a user's words."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise InfomaxError(
                "batch normalisation learns nothing from a batch of one item whose map has one position",
                "take a train.batch of at least 2",
            )
        return super().forward(x)


def _finished(conv: nn.Conv2d, init_std: float | None, dropout: float, norm: Norm) -> OrderedDict[str, nn.Module]:
    """The layers of a stage from its convolution on."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if init_std is not None:
        nn.init.normal_(conv.weight, 0.0, init_std)
    if dropout > 0:
        layers["dropout"] = nn.Dropout2d(dropout)
    if norm == "batch":
        layers["norm"] = BatchNorm(conv.out_channels)
    # in place: neither a convolution nor a norm needs its own output again for its gradient
    layers["relu"] = nn.ReLU(inplace=True)
    return layers
