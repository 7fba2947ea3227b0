"""What the encoders of Deep InfoMax have in common: a configuration made into a row of stages, and their geometry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

from ._folding import Fold, OnCrops, Unfold
from ._inputs import make_input
from ._spectrogram import Spectrogram
from ._stages import Linear, StageSpec, Window

Built = list[tuple[nn.Module, tuple[Window, ...]]]  # stages, each with the windows between its input and its output


@dataclass(frozen=True)
class Crops:
    """The first `stages` see crops of `side` pixels, half a crop apart, each alone; the last of them folds them."""

    side: int
    stages: int


@dataclass(frozen=True)
class Config:
    """A published configuration: the `side` and the `channels` of its images, its stages, the size of its top layer,
    and the stage of its local map."""

    side: int
    stages: tuple[StageSpec, ...]
    local: int
    crops: Crops | None = None
    channels: int = 3
    units: int = 64


class DIMEncoder(nn.Module):
    """Stages on images ``(B, C, side, side)``, or on spectrograms of as many bands and at least as many frames.

    `local_stage` is the stage of the published local map. See `dim_convnet` for the options.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        channels: int | None,
        units: int | None,
        widths: Sequence[int] | None,
        size: int | None,
        mean: float | list[float] | None,
        std: float | list[float] | None,
        spectrogram: Spectrogram | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.local_stage = config.local
        self.side = config.side if size is None else size
        self.input = make_input(
            name,
            size=self.side,
            channels=config.channels if channels is None and spectrogram is None else channels,
            mean=mean,
            std=std,
            spectrogram=spectrogram,
            other_size=f"data.size={self.side} brings images to that size, encoder.size builds it for another",
        )
        specs = _with_top(name, _with_widths(name, config.stages, widths), config.units if units is None else units)
        built = _build(name, specs, config.crops, self.input.out_channels, self.side)
        self.stages = nn.ModuleList(stage for stage, _ in built)
        self._windows = tuple(windows for _, windows in built)
        # crops beside each other are read out as the map that they will be folded to
        self._fold = None if config.crops is None else Fold(Unfold(config.crops.side).rows(self.side))

    def prepare(self, x: Tensor) -> Tensor:
        """Images in [0, 1], ``(B, C, side, side)``, normalised; or samples ``(B, 1, T)`` as a spectrogram.

        Raises `InfomaxError` on images of another size, and on sound too short for the encoder.
        """
        y: Tensor = self.input(x)
        return y

    def readout(self, y: Tensor, stage: int) -> Tensor:
        """A map ``(B, C, H, W)`` as it is; crops ``(B, N, C, h, w)`` each as its mean, on their grid."""
        return self._fold(y) if self._fold is not None and y.dim() == 5 else y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        """Where the positions of a stage's map lie among the pixels, or among bands and samples; -1 is the input."""
        if not -1 <= stage < len(self.stages):
            raise IndexError(f"{self.name} has stages 0 to {len(self.stages) - 1}, not {stage}")
        axes: tuple[Axis, ...] = self.input.axes()
        for windows in self._windows[: stage + 1]:
            for window in windows:
                axes = tuple(window.axis(axis) for axis in axes)
        return axes


_TOO_SMALL = "take a larger encoder.size, and of images a data.size like it"


def _with_widths(name: str, stages: tuple[StageSpec, ...], widths: Sequence[int] | None) -> tuple[StageSpec, ...]:
    if widths is None:
        return stages
    if len(widths) != len(stages) or min(widths) < 1:
        published = [stage.width for stage in stages]
        raise InfomaxError(
            f"{name}: widths must be {len(stages)} positive numbers, one for each stage below the top, not {widths}",
            f"the published are {published}",
        )
    return tuple(replace(stage, width=width) for stage, width in zip(stages, widths, strict=True))


def _with_top(name: str, stages: tuple[StageSpec, ...], units: int) -> tuple[StageSpec, ...]:
    if units < 0:
        raise InfomaxError(f"{name}: units is {units}, but must be at least 0", "0 leaves out the top layer")
    return (*stages, Linear(units)) if units else stages


def _build(name: str, specs: Sequence[StageSpec], crops: Crops | None, channels: int, side: int) -> Built:
    """Stages for images of `channels` and `side`; those on crops for crops."""
    if crops is None:
        return _build_row(name, specs, channels, side)
    if side < crops.side:
        raise InfomaxError(f"{name}: size is {side}, but it reads crops of {crops.side}", _TOO_SMALL)
    unfold = Unfold(crops.side)
    rows = unfold.rows(side)
    trunk = _build_row(name, specs[: crops.stages], channels, crops.side)
    stages = [_on_crops(stage, place, len(trunk), unfold, Fold(rows)) for place, (stage, _) in enumerate(trunk)]
    # what is made of a crop is read out at the crop's place, however far the stages are
    windows = [(Window(unfold.crop, unfold.stride),), *((),) * (len(trunk) - 1)]
    rest = _build_row(name, specs[crops.stages :], specs[crops.stages - 1].width, rows)
    return [*zip(stages, windows, strict=True), *rest]


def _on_crops(stage: nn.Module, place: int, count: int, unfold: Unfold, fold: Fold) -> nn.Sequential:
    """The stage at `place` of `count` on crops: the first unfolds the image, the last folds its codes."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if place == 0:
        layers["unfold"] = unfold
    layers["crops"] = OnCrops(stage)
    if place == count - 1:
        layers["fold"] = fold
    return nn.Sequential(layers)


def _build_row(name: str, specs: Sequence[StageSpec], channels: int, side: int) -> Built:
    """One stage after the other on a map ``(B, channels, side, side)``."""
    built: Built = []
    for spec in specs:
        windows = spec.windows(side)
        after = side
        for window in windows:
            after = window.count(after)
            if after < 1:
                raise InfomaxError(f"{name}: maps of {side}x{side} are too small for a stage", _TOO_SMALL)
        built.append((spec.build(channels, side), windows))
        channels, side = spec.width, after
    return built
