"""The encoder of Augmented Multiscale Deep InfoMax, AMDIM (Bachman et al. 2019, appendix)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

from ._inputs import make_input
from ._spectrogram import Spectrogram

Size = Literal[32, 64, 128]


@dataclass(frozen=True)
class Window:
    """The shape of a convolution, the same along both axes."""

    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Layout:
    """The row of blocks for one size of images: what comes first, ndf channels wide, then a block of residual layers
    for each of `blocks`, ``(window, width in ndf)``. A single residual layer goes from the last to 1x1.

    `mean` and `std` are those of the data that the size was made for: CIFAR-10, STL-10, ImageNet.
    """

    stem: tuple[Window, ...]
    blocks: tuple[tuple[Window, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    widens_at_once: bool = True  # if not, a residual layer of 1x1 lies between the stem and the blocks


_HALVE_4, _HALVE_2, _SHRINK = Window(4, 2), Window(2, 2), Window(3)
_LARGE_BLOCKS = ((_HALVE_4, 2), (_HALVE_4, 4), (_HALVE_2, 8), (_SHRINK, 8), (_SHRINK, 8))
_LAYOUTS: dict[int, Layout] = {
    32: Layout(
        (Window(3),),
        ((_HALVE_4, 2), (_HALVE_2, 4), (_SHRINK, 4), (_SHRINK, 4)),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        widens_at_once=False,
    ),
    64: Layout((Window(3),), _LARGE_BLOCKS, mean=(0.43, 0.42, 0.39), std=(0.27, 0.26, 0.27)),
    128: Layout((Window(5, 2, 2), Window(3)), _LARGE_BLOCKS, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}


class AMDIMResNet(nn.Module):
    """Residual layers without padding, so that receptive fields are nested: ``(B, C, size, size)`` to ``(B, n_rkhs, 1,
    1)``.

    Stages and their grids, each a convolution or a block of residual layers:

    ===  =======================================================================================
    32   30 (ndf), 30 (ndf, one layer), 14 (2 ndf), 7 (4 ndf), 5 (4 ndf), 3 (4 ndf), 1 (n_rkhs)
    64   62 (ndf), 30 (2 ndf), 14 (4 ndf), 7 (8 ndf), 5 (8 ndf), 3 (8 ndf), 1 (n_rkhs)
    128  64 (ndf), then as 64; the first convolution alone is padded, by reflection
    ===  =======================================================================================

    With `batch_norm` the stage of 7x7 ends in a batch normalisation, which the published list of layers counts apart;
    the last stage ends in one in any case. Every residual branch starts at zero (as in Fixup, Zhang et al. 2019).

    Published: ``size=32, ndf=256, n_rkhs=2048, depth=10`` for CIFAR (the large one), and for ImageNet ``size=128``
    with ``ndf=192, n_rkhs=1536, depth=8``, with 256, 2048, 10 and with 320, 2560, 10.

    With `spectrogram` it reads sound, in `size` bands: `size` frames make the grids above, more frames more columns.

    Args:
        size: of the images, in pixels; it chooses the layout.
        ndf: the width of the first convolution, of which other widths are multiples.
        n_rkhs: the width of the last map, at least that of the blocks: 4 ndf for 32 pixels, 8 ndf otherwise.
        depth: residual layers a block; all but the first have a kernel of 1x1.
        batch_norm: batch normalisation within the residual layers.
        channels: of the images, 3 by default; a spectrogram has one.
        mean, std: of each channel of the images, in [0, 1], or one number for all; by default of CIFAR-10 (32), STL-10
            (64) and ImageNet (128), or 0.5 where channels are not three. Of a spectrogram, those of its log-energies.
        spectrogram: read sound as a log-mel spectrogram made this way; ``{}`` for 25 ms windows every 10 ms at 16 kHz.
    """

    def __init__(
        self,
        *,
        size: Size = 32,
        ndf: int = 128,
        n_rkhs: int = 1024,
        depth: int = 3,
        batch_norm: bool = False,
        channels: int | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        super().__init__()
        layout = _LAYOUTS[size]
        _check_options(layout, ndf, n_rkhs, depth)
        if spectrogram is None and channels in (None, 3):
            mean = list(layout.mean) if mean is None else mean
            std = list(layout.std) if std is None else std
        self.input = make_input(
            "amdim_resnet",
            size=size,
            channels=channels,
            mean=mean,
            std=std,
            spectrogram=spectrogram,
            other_size=f"encoder.size takes {', '.join(map(str, _LAYOUTS))}; data.size brings images to one of them",
        )
        self._windows: list[Window] = []  # of each stage
        self.stages = nn.ModuleList()
        width = self.input.out_channels
        for window in layout.stem:
            self._add(Stem(width, ndf, window), window)
            width = ndf
        if not layout.widens_at_once:
            self._add(ResidualLayer(ndf, ndf, Window(1), batch_norm), Window(1))
        for window, multiple in layout.blocks:
            block = _residual_block(width, multiple * ndf, window, depth, batch_norm)
            width = multiple * ndf
            if batch_norm and window == _HALVE_2:  # what comes out has the grid 7x7
                block.add_module("norm", nn.BatchNorm2d(width))
            self._add(block, window)
        self._add(_last_stage(width, n_rkhs, batch_norm), _SHRINK)

    def prepare(self, x: Tensor) -> Tensor:
        """Images in [0, 1], ``(B, C, size, size)``, normalised; or samples ``(B, 1, T)`` as a spectrogram.

        Raises `InfomaxError` on images of another size, and on sound of fewer than `size` frames.
        """
        prepared: Tensor = self.input(x)
        return prepared

    def readout(self, y: Tensor, stage: int) -> Tensor:
        """A stage's output as it is, ``(B, C, H, W)``."""
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        """Where the positions of `stage`'s map lie among the pixels, or among bands and samples; -1 is the input's."""
        if not -1 <= stage < len(self.stages):
            raise IndexError(f"amdim_resnet has stages 0 to {len(self.stages) - 1}, not {stage}")
        axes: tuple[Axis, ...] = self.input.axes()
        for window in self._windows[: stage + 1]:
            axes = tuple(axis.convolve(window.kernel, window.stride, window.padding) for axis in axes)
        return axes

    def _add(self, stage: nn.Module, window: Window) -> None:
        self.stages.append(stage)
        self._windows.append(window)


class Stem(nn.Module):
    """A convolution, with reflected borders where it is padded, and a ReLU."""

    def __init__(self, channels: int, width: int, window: Window) -> None:
        super().__init__()
        borders: Literal["reflect", "zeros"] = "reflect" if window.padding else "zeros"
        self.conv = nn.Conv2d(channels, width, window.kernel, window.stride, window.padding, padding_mode=borders)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv(x))


class ResidualLayer(nn.Module):
    """``conv1x1(relu(conv(x)))`` added to the mean of what `window` sees: ``(B, C, H, W)`` to ``(B, C', H', W')``.

    The shortcut has no weights; channels that it lacks are zero. The branch starts at zero.
    """

    def __init__(self, channels: int, width: int, window: Window, batch_norm: bool) -> None:
        super().__init__()
        self.window = window
        self.added = width - channels
        self.conv1 = nn.Conv2d(channels, width, window.kernel, window.stride, bias=False)
        self.norm = nn.BatchNorm2d(width) if batch_norm else None
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        if self.norm is not None:
            hidden = self.norm(hidden)
        y: Tensor = self.conv2(F.relu_(hidden))
        return y.add_(self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.window.kernel > 1:  # the mean of one pixel would be a copy
            x = F.avg_pool2d(x, self.window.kernel, self.window.stride)
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x


class GlobalNorm(nn.BatchNorm2d):
    """Batch normalisation of maps of 1x1, with a word on batches of one image."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            raise InfomaxError(
                "amdim_resnet normalises its last map over the images of a batch, but this batch has one",
                "take a train.batch of at least 2",
            )
        return super().forward(x)


def _residual_block(channels: int, width: int, window: Window, depth: int, batch_norm: bool) -> nn.Sequential:
    """A layer that shrinks the map, and `depth` - 1 with a kernel of 1x1."""
    layers = [ResidualLayer(channels, width, window, batch_norm)]
    layers += [ResidualLayer(width, width, Window(1), batch_norm) for _ in range(depth - 1)]
    return nn.Sequential(OrderedDict((f"layer{place}", layer) for place, layer in enumerate(layers)))


def _last_stage(channels: int, width: int, batch_norm: bool) -> nn.Sequential:
    layer = ResidualLayer(channels, width, _SHRINK, batch_norm)
    return nn.Sequential(OrderedDict(layer0=layer, norm=GlobalNorm(width)))


def _check_options(layout: Layout, ndf: int, n_rkhs: int, depth: int) -> None:
    for name, value in {"ndf": ndf, "depth": depth}.items():
        if value < 1:
            raise InfomaxError(f"amdim_resnet: {name} is {value}, but must be at least 1")
    widest = layout.blocks[-1][1]
    if n_rkhs < widest * ndf:
        raise InfomaxError(
            f"amdim_resnet: n_rkhs is {n_rkhs}, but its blocks end {widest} ndf = {widest * ndf} channels wide, and a "
            f"shortcut cannot drop channels",
            f"n_rkhs of at least {widest * ndf}, or a smaller ndf",
        )
