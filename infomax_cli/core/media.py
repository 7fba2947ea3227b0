"""What latents can be decoded to: sound and images, and how far one of a kind is from another, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core import image_distance, sound_distance
from infomax_cli.core.api import DataSpec
from infomax_cli.errors import UsageError

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Measure:
    """`of` each pair of a batch, ``(B,)``; `title` heads its column."""

    title: str
    of: Distance


@dataclass(frozen=True)
class Medium:
    """`losses` train decoders, the first by default; `measures` judge them. Both take what was made, then what was
    wanted, ``(B, C, *grid)``. `rate` is that of sound, in samples a second; images have none."""

    losses: Mapping[str, Distance]
    measures: Mapping[str, Measure]
    rate: int | None = None

    @property
    def default_loss(self) -> str:
        return next(iter(self.losses))

    def loss(self, name: str) -> Distance:
        """The loss called `name`, or the sum of several, ``mse+mel``. Raises `UsageError` where there is none."""
        parts = []
        for part in name.split("+"):
            if part not in self.losses:
                raise UsageError(
                    f"--loss {name}: there is no loss {part!r} here", f"{', '.join(self.losses)}, and sums of them"
                )
            parts.append(self.losses[part])

        def total(made: Tensor, wanted: Tensor) -> Tensor:
            return torch.stack([part(made, wanted) for part in parts]).sum()

        return total


def medium_of(data: DataSpec) -> Medium:
    """Sound of one channel or images of one or three. Raises `UsageError` where the data is neither."""
    if data.axes == ("time",) and data.rate is not None and data.channels == 1:
        return _sound(data.rate)
    if len(data.grid) == 2 and data.rate is None and data.channels in (1, 3):
        return _IMAGES
    raise UsageError("decode: the data is neither sound of one channel nor images of one or three")


def _sound(rate: int) -> Medium:
    measures = {
        "mel_error": Measure("mel error (dB)", functools.partial(sound_distance.mel_error, rate=rate)),
        "cepstral_distortion": Measure("MCD (dB)", functools.partial(sound_distance.cepstral_distortion, rate=rate)),
    }
    return Medium({name: make(rate) for name, make in sound_distance.LOSSES.items()}, measures, rate)


_IMAGES = Medium(
    losses={"mse": F.mse_loss, "l1": F.l1_loss, "ms-ssim": image_distance.dissimilarity},
    measures={
        "psnr": Measure("PSNR (dB)", image_distance.psnr),
        "ms_ssim": Measure("MS-SSIM", image_distance.ms_ssim),
    },
)
