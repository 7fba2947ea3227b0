"""The image encoder of Greedy InfoMax and of its CPC (Löwe et al. 2019; Hénaff et al. 2019): a ResNet on patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

from ._inputs import make_input
from ._pixelcnn import PixelCNN
from ._preact import PreActBlock, PreActBottleneck, delta_orthogonal_
from ._spectrogram import Spectrogram

# of the unlabelled images of STL-10, and of their luma, as Löwe et al. take them
_COLOUR = ((0.4313, 0.4156, 0.3663), (0.2683, 0.2610, 0.2687))
_GREY = ((0.4120,), (0.2570,))

_BLOCKS: dict[int, type[PreActBlock] | type[PreActBottleneck]] = {34: PreActBlock, 50: PreActBottleneck}


class ResNetPatches(nn.Module):
    """Overlapping patches of an image, each encoded apart by the first stages of a ResNet: a vector a patch.

    Images ``(B, C, size, size)`` in [0, 1] become a grid of R x K patches, 7x7 as published. Between stages go the full
    maps of all patches, ``(B, R, K, C', h, w)``; what losses and probes see of a stage is their mean over each patch,
    back on the grid: ``(B, C', R, K)``. The ResNet has its ReLUs first and no normalisation; the first stage begins
    with a 5x5 convolution, each further one halves the map.

    Args:
        resnet: 50 for bottlenecks, four times as wide at the end of a stage as `widths` says; 34 for plain blocks.
        size: of the images, in pixels; with `spectrogram` the bands, and the least number of frames.
        patch, stride: the side of a patch, and how far apart patches begin.
        channels: of the images, 3 by default.
        grey: make grey images of those in colour.
        widths: of each stage; that of the first is the 5x5 convolution's too.
        blocks: residual blocks in each stage.
        init: ``default`` is torch's. ``delta_orthogonal``: biases of 0, and kernels of 0 but for the square root of 2
            times an orthogonal matrix in the middle (Xiao et al. 2018); `delta_orthogonal_` says what that is where
            there are fewer outputs than inputs. A PixelCNN's layers, which end in gates, are then normal as in He et
            al. 2015, with the gain of a tanh.
        context: ``pixelcnn`` adds a context stage to the end, which reads the grid from the top down (CPC).
        mean, std: of pixels in [0, 1], one for all channels or one each; by default those of STL-10, 0.5 for other
            numbers of channels. With a spectrogram of its log-energies; by default those of speech.
        spectrogram: read sound ``(B, 1, T)`` as an image of log-mel energies, ``{window, hop, rate, floor}``; ``{}`` is
            25 ms every 10 ms at 16 kHz. Rows of patches are then of frequency, columns of time.

    Raises:
        InfomaxError: options that do not go together.
    """

    def __init__(
        self,
        *,
        resnet: Literal[34, 50] = 50,
        size: int = 64,
        patch: int = 16,
        stride: int = 8,
        channels: int | None = None,
        grey: bool = False,
        widths: tuple[int, ...] = (64, 128, 256),
        blocks: tuple[int, ...] = (3, 4, 6),
        init: Literal["default", "delta_orthogonal"] = "default",
        context: Literal["none", "pixelcnn"] = "none",
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        super().__init__()
        _check_patches(size, patch, stride)
        _check_stages(widths, blocks)
        self.patch, self.stride = patch, stride
        known_mean, known_std = _normalisation(channels, grey=grey) if spectrogram is None else (None, None)
        self.input = make_input(
            "resnet_patches",
            size=size,
            channels=channels,
            mean=known_mean if mean is None else mean,
            std=known_std if std is None else std,
            grey=grey,
            spectrogram=spectrogram,
        )
        stages = _resnet_stages(_BLOCKS[resnet], self.input.out_channels, widths, blocks)
        if context == "pixelcnn":
            stages.append(PatchContext(_BLOCKS[resnet].expansion * widths[-1]))
        self.stages = nn.ModuleList(stages)
        if init == "delta_orthogonal":
            for stage in stages:
                _initialise(stage)

    def prepare(self, x: Tensor) -> Tensor:
        """Images ``(B, C, size, size)`` in [0, 1], or samples ``(B, 1, T)``, to normalised patches
        ``(B, R, K, C, patch, patch)``, each with its channels last in memory."""
        image = self.input(x)
        patches = image.permute(0, 2, 3, 1).unfold(1, self.patch, self.stride).unfold(2, self.patch, self.stride)
        # (B, R, K, C, patch, patch): one copy, since patches overlap, and at once as convolutions read it fastest
        prepared: Tensor = patches.permute(0, 1, 2, 4, 5, 3).contiguous().permute(0, 1, 2, 5, 3, 4)
        return prepared

    def readout(self, y: Tensor, stage: int) -> Tensor:
        """The mean of each patch, on the grid of patches: ``(B, C, R, K)``; the context as it is."""
        return y if stage >= 0 and isinstance(self.stages[stage], PatchContext) else _patch_means(y)

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        """Where patches lie in the image, the same for every stage: each sees its patch and nothing else."""
        if not -1 <= stage < len(self.stages):
            raise IndexError(f"resnet_patches has stages 0 to {len(self.stages) - 1}, not {stage}")
        return tuple(axis.convolve(self.patch, self.stride) for axis in self.input.axes())


class PatchStage(nn.Sequential):
    """Layers that see each patch apart: ``(B, R, K, C, h, w)`` to ``(B, R, K, C', h', w')``."""

    def forward(self, patches: Tensor) -> Tensor:
        y = patches.flatten(0, 2)  # all patches as one batch
        for layer in self:
            y = layer(y)
        return y.view(*patches.shape[:3], *y.shape[1:])


class PatchContext(nn.Module):
    """A PixelCNN over the patches' means: ``(B, R, K, C, h, w)`` to ``(B, C, R, K)``."""

    is_context = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pixelcnn = PixelCNN(channels)

    def forward(self, patches: Tensor) -> Tensor:
        context: Tensor = self.pixelcnn(_patch_means(patches))
        return context


def _patch_means(patches: Tensor) -> Tensor:
    """``(B, R, K, C, h, w)`` to ``(B, C, R, K)``."""
    return patches.mean((-2, -1)).movedim(-1, 1)


def _normalisation(channels: int | None, *, grey: bool) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and deviation of STL-10 for colour or grey, None for other channels."""
    return _GREY if grey or channels == 1 else _COLOUR if channels in (None, 3) else (None, None)


def _resnet_stages(
    block: type[PreActBlock] | type[PreActBottleneck], channels: int, widths: Sequence[int], blocks: Sequence[int]
) -> list[nn.Module]:
    """One stage for each width: so many blocks, the first of which halves the map, but in the first stage."""
    stages: list[nn.Module] = []
    for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        layers: list[nn.Module] = []
        if index == 0:
            layers.append(nn.Conv2d(channels, width, 5, padding=2))
            channels = width
        for place in range(count):
            layers.append(block(channels, width, stride=2 if index and not place else 1))
            channels = block.expansion * width
        stages.append(PatchStage(*layers))
    return stages


def _initialise(stage: nn.Module) -> None:
    """Delta-orthogonal kernels, or those of He et al. for a tanh where gates follow; biases of 0."""
    gated = stage.pixelcnn.layers if isinstance(stage, PatchContext) else nn.ModuleList()
    before_gates = {id(module) for module in gated.modules()}
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if id(module) in before_gates:
            nn.init.kaiming_normal_(module.weight, nonlinearity="tanh")
        else:
            delta_orthogonal_(module.weight, nn.init.calculate_gain("relu"))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_patches(size: int, patch: int, stride: int) -> None:
    if stride < 1:
        raise InfomaxError(f"resnet_patches: stride is {stride}, but must be at least 1")
    if not 1 <= patch <= size:
        raise InfomaxError(
            f"resnet_patches: patch is {patch}, but must be 1 to {size}, the size of the images",
            "take a smaller encoder.patch, or a larger encoder.size and data.size",
        )


def _check_stages(widths: Sequence[int], blocks: Sequence[int]) -> None:
    if not widths or len(widths) != len(blocks):
        raise InfomaxError(
            f"resnet_patches: widths and blocks must have a value for each stage: {list(widths)}, {list(blocks)}"
        )
    if min(*widths, *blocks) < 1:
        raise InfomaxError(
            f"resnet_patches: widths and blocks must be at least 1 everywhere: {list(widths)}, {list(blocks)}"
        )
