"""The residual encoders of Deep InfoMax (Hjelm et al. 2019), in the configurations of its published code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import InfomaxError

from ._dim import Config, Crops, DIMEncoder
from ._spectrogram import Spectrogram
from ._stages import BatchNorm, ChannelNorm, Conv, Dense, StageSpec, Window

ResNetName = Literal[
    "resnet19_32x32",
    "resnet34_32x32",
    "foldresnet19_32x32",
    "foldresnet34_32x32",
    "philish_resnet_32x32",
    "philish_resnet_32x32_wide",
    "philish_resnet_64x64",
    "philish_resnet_64x64_wide",
]

_ONE = Window(1)


class Residual(nn.Module):
    """ReLU of what `layers` make of a map, and the map itself or what `shortcut` makes of it."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.layers(x) + kept)


@dataclass(frozen=True)
class Bottlenecks(StageSpec):
    """`repeat` bottlenecks (He et al. 2015) one after the other, the first with a `stride`."""

    stride: int = 1
    repeat: int = 1

    def build(self, channels: int, side: int) -> nn.Module:
        if self.width % 4:
            raise InfomaxError(f"dim_resnet: bottlenecks end in a multiple of 4 channels, not in {self.width}")
        first = _bottleneck(channels, self.width, self.stride)
        return nn.Sequential(first, *(_bottleneck(self.width, self.width, 1) for _ in range(self.repeat - 1)))

    def windows(self, side: int) -> tuple[Window, ...]:
        return (Window(3, self.stride, 1), *(Window(3, 1, 1),) * (self.repeat - 1))


@dataclass(frozen=True)
class Unpadded(StageSpec):
    """A residual layer that pads nothing: receptive fields are nested, and the grid shrinks by the window.

    `layer_norm` normalises the channels of its output.
    """

    window: Window = _ONE
    layer_norm: bool = False

    def build(self, channels: int, side: int) -> nn.Module:
        shrinking = Conv(self.width, self.window)
        layers = nn.Sequential(shrinking.on(channels), Conv(self.width, _ONE).on(self.width))
        same = channels == self.width and self.window == _ONE
        block = Residual(layers, None if same else shrinking.on(channels))
        return nn.Sequential(block, ChannelNorm(self.width)) if self.layer_norm else block

    def windows(self, side: int) -> tuple[Window, ...]:
        return (self.window,)


def _bottleneck(channels: int, width: int, stride: int) -> Residual:
    inner = width // 4
    layers = nn.Sequential(
        Conv(inner, _ONE).on(channels),
        Conv(inner, Window(3, stride, 1)).on(inner),
        _projection(inner, width, 1),
    )
    same = channels == width and stride == 1
    return Residual(layers, None if same else _projection(channels, width, stride))


def _projection(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), BatchNorm(width))


def _bottlenecks(*repeats: int) -> tuple[StageSpec, ...]:
    """A convolution and three widths of bottlenecks: so many of the first, then one with a stride and so many more."""
    first, second, third = repeats
    return (
        Conv(64, Window(3, 2, 1)),
        Bottlenecks(256, repeat=first),
        Bottlenecks(512, stride=2),
        Bottlenecks(512, repeat=second),
        Bottlenecks(1024, stride=2),
        Bottlenecks(1024, repeat=third),
        Dense(1024),
    )


def _philish(stem: int, last: int, *shrinking: tuple[int, Window], layer_norm: bool = True) -> tuple[StageSpec, ...]:
    """A convolution, then two unpadded layers for each of `shrinking`, of which the first shrinks the grid; and the
    `last`, which ends on a 3x3 grid."""
    pairs = [stage for width, window in shrinking for stage in (Unpadded(width, window), Unpadded(width))]
    return (
        Conv(stem, Window(3), norm="none", bias=True),
        *pairs,
        Unpadded(last, Window(3), layer_norm=layer_norm),
    )


_HALVE_4, _HALVE_2, _NEXT = Window(4, 2), Window(2, 2), Window(3)
_CONFIGS: dict[ResNetName, Config] = {
    "resnet19_32x32": Config(32, _bottlenecks(2, 1, 1), local=2),
    "resnet34_32x32": Config(32, _bottlenecks(3, 5, 2), local=2),
    "foldresnet19_32x32": Config(32, _bottlenecks(2, 1, 1), local=5, crops=Crops(8, 6)),
    "foldresnet34_32x32": Config(32, _bottlenecks(2, 5, 2), local=5, crops=Crops(8, 6)),
    "philish_resnet_32x32": Config(
        32,
        _philish(32, 64, (64, _HALVE_4), (512, _HALVE_2), (512, _NEXT), (512, _NEXT), layer_norm=False),
        local=4,
    ),
    "philish_resnet_32x32_wide": Config(
        32, _philish(256, 1024, (512, _HALVE_4), (1024, _HALVE_2), (1024, _NEXT), (1024, _NEXT)), local=4
    ),
    "philish_resnet_64x64": Config(
        64, _philish(32, 64, (64, _HALVE_4), (128, _HALVE_4), (512, _HALVE_2), (512, _NEXT), (512, _NEXT)), local=6
    ),
    "philish_resnet_64x64_wide": Config(
        64,
        _philish(256, 1024, (512, _HALVE_4), (1024, _HALVE_4), (1024, _HALVE_2), (1024, _NEXT), (1024, _NEXT)),
        local=6,
    ),
}


class DIMResNet(DIMEncoder):
    """Residual layers with batch normalisation, ``(B, C, side, side)`` to a code.

    A fully connected layer is a stage like the others; its map has the grid 1x1. `config` names the stages, by
    channels and grid; the published local map is printed between stars, and `local_stage` tells its stage:

    ========================= =================================================================================
    resnet19_32x32            64@16, 256@16, *512@8*, 512@8, 1024@4, 1024@4, 1024@1 (the first of two maps 8x8)
    resnet34_32x32            as resnet19, with 3, 1, 5, 1 and 2 bottlenecks in place of 2, 1, 1, 1 and 1
    foldresnet19_32x32        on crops of 8: 64, 256, 512, 512, 1024, *1024@7*; on their grid: 1024@1
    foldresnet34_32x32        as foldresnet19, with 2, 1, 5, 1 and 2 bottlenecks
    philish_resnet_32x32      32@30, 64@14 twice, 512@7, *512@7*, 512@5 twice, 512@3 twice, 64@1
    philish_resnet_32x32_wide 256@30, 512@14 twice, 1024@7, *1024@7*, 1024@5 twice, 1024@3 twice, 1024@1
    philish_resnet_64x64      32@62, 64@30 twice, 128@14 twice, 512@7, *512@7*, 512@5 twice, 512@3 twice, 64@1
    philish_resnet_64x64_wide 256@62, 512@30 twice, 1024@14 twice, 1024@7, *1024@7*, then as 32x32_wide
    ========================= =================================================================================

    The published global is the top layer. Published probes read the last map of more than one position (philish: the
    second 5x5 map), the fully connected layer below the top, and the top.

    Of foldresnet34_32x32 the published code leaves out the two layers with a stride, so that its crops never become one
    position and are folded into the batch; here they are in place, and it has 34 convolutions.

    The folded ones see 49 crops of 8x8, 4 pixels apart, each alone; see `dim_convnet` for how they are read out, and
    for the options.
    """

    def __init__(
        self,
        *,
        config: ResNetName = "resnet19_32x32",
        channels: int | None = None,
        units: int | None = None,
        widths: list[int] | None = None,
        size: int | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        super().__init__(
            f"dim_resnet {config}",
            _CONFIGS[config],
            channels=channels,
            units=units,
            widths=widths,
            size=size,
            mean=mean,
            std=std,
            spectrogram=spectrogram,
        )
