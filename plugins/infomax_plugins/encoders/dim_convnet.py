"""The convolutional encoders of Deep InfoMax (Hjelm et al. 2019), in the configurations of its published code."""

from __future__ import annotations

from typing import Literal

from ._dim import Config, Crops, DIMEncoder
from ._spectrogram import Spectrogram
from ._stages import Conv, Dense, Window

ConvnetName = Literal["basic28x28", "basic32x32", "basic64x64", "alex64x64", "foldalex64x64", "foldmultialex64x64"]

_HALVE = Window(4, 2, 1)
_SAME = Window(3, 1, 1)
_POOL = Window(3, 2)


def _basic(side: int, *widths: int) -> Config:
    stages = (*(Conv(width, _HALVE) for width in widths), Dense(1024))
    return Config(side, stages, local=len(widths) - 2)


def _alex_convs(bias: bool = False, init_std: float | None = None) -> tuple[Conv, ...]:
    return (
        Conv(96, _SAME, _POOL, bias=bias, init_std=init_std),
        Conv(192, _SAME, _POOL, bias=bias, init_std=init_std),
        Conv(384, _SAME, bias=bias, init_std=init_std),
        Conv(384, _SAME, bias=bias, init_std=init_std),
        Conv(192, _SAME, _POOL, bias=bias, init_std=init_std),
    )


_HALVE_5X5 = Window(5, 2, 2)
CONFIGS: dict[ConvnetName, Config] = {
    "basic28x28": Config(28, (Conv(64, _HALVE_5X5), Conv(128, _HALVE_5X5), Dense(1024)), local=1, channels=1),
    "basic32x32": _basic(32, 64, 128, 256),
    "basic64x64": _basic(64, 64, 128, 256, 512),
    "alex64x64": Config(64, (*_alex_convs(), Dense(4096), Dense(4096)), local=2),
    "foldalex64x64": Config(
        64,
        (
            *_alex_convs(bias=True, init_std=0.02),
            Conv(384, Window(3, 2), dropout=0.1),
            Dense(4096, dropout=0.1, bias=True, init_std=0.02),
        ),
        local=4,
        crops=Crops(16, 5),
    ),
    "foldmultialex64x64": Config(
        64, (*_alex_convs(), Conv(192, Window(3)), Conv(192, Window(1))), local=4, crops=Crops(16, 5), units=0
    ),
}


class DIMConvNet(DIMEncoder):
    """Convolutions and fully connected layers with batch normalisation and ReLU, ``(B, C, side, side)`` to a code.

    A fully connected layer is a stage like the others; its map has the grid 1x1. `config` names the stages, by
    channels and grid; the published local map is printed between stars, and `local_stage` tells its stage:

    ==================== ===============================================================================
    basic28x28           64@14, *128@7*, 1024@1 (images of 1 channel)
    basic32x32           64@16, *128@8*, 256@4, 1024@1
    basic64x64           64@32, 128@16, *256@8*, 512@4, 1024@1
    alex64x64            96@31, 192@15, *384@15*, 384@15, 192@7, 4096@1, 4096@1 (of three maps 15x15 the second)
    foldalex64x64        on crops of 16: 96, 192, 384, 384, *192@7*; on their grid: 384@3, 4096@1
    foldmultialex64x64   on crops of 16: 96, 192, 384, 384, *192@7*; on their grid: 192@5, 192@5 (no top layer)
    ==================== ===============================================================================

    The published global is the top layer, of foldmultialex64x64 every position of the last map. Published probes read
    the last convolution (of the folded ones 192@7), the last fully connected layer below the top, and the top.

    The folded ones see 49 crops of 16x16, 8 pixels apart, each alone, as CPC does. What a stage makes of a crop is read
    out as its mean, on a map 7x7 of the crops.

    Args:
        config: which published one.
        channels: of the images; by default 3, and 1 for basic28x28.
        units: size of the top layer, 0 for none; by default 64, and 0 for foldmultialex64x64.
        widths: of the stages below the top, instead of the published ones.
        size: height and width of the images, instead of those in the name. A spectrogram has as many bands.
        mean, std: of pixels in [0, 1], one for all channels or one each; by default 0.5. With a spectrogram of its
            log-energies; by default those of speech.
        spectrogram: reads sound ``(B, 1, T)`` as an image of log-mel energies, ``{window, hop, rate, floor}``; ``{}``
            is 25 ms every 10 ms at 16 kHz, so that a crop of 10240 samples is 64 frames. Longer sound makes a longer
            map: the fully connected layers slide along it.
    """

    def __init__(
        self,
        *,
        config: ConvnetName = "basic32x32",
        channels: int | None = None,
        units: int | None = None,
        widths: list[int] | None = None,
        size: int | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        super().__init__(
            f"dim_convnet {config}",
            CONFIGS[config],
            channels=channels,
            units=units,
            widths=widths,
            size=size,
            mean=mean,
            std=std,
            spectrogram=spectrogram,
        )
