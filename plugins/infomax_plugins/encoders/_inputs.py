"""What makes the first stage's input of raw items, for every encoder of images: pixels, or sound as a spectrogram."""

from __future__ import annotations

from collections.abc import Sequence

from infomax_cli.core.api import InfomaxError

from ._pixels import Pixels
from ._spectrogram import MEAN, STD, LogMel, Spectrogram

Values = float | Sequence[float]  # one for all channels, or one each


def make_input(
    encoder: str,
    *,
    size: int,
    channels: int | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    grey: bool = False,
    spectrogram: Spectrogram | None = None,
    other_size: str | None = None,
) -> Pixels | LogMel:
    """A module that takes raw items and gives a map ``(B, out_channels, size, size)``, with its `axes`.

    Args:
        encoder: its name, for messages.
        size: of square images; of a spectrogram the number of bands, and of frames the least.
        channels: of the images, 3 by default. A spectrogram has one.
        mean, std: of pixels, 0.5 by default, or of log-energies, by default those of speech.
        grey: mix red, green and blue.
        spectrogram: take sound ``(B, 1, T)`` instead of images.
        other_size: what to do about images of another size; by default to have the data bring them to this one.

    Raises:
        InfomaxError: options that contradict one another.
    """
    if spectrogram is None:
        return Pixels(
            encoder,
            f"data.size={size} brings images to that size" if other_size is None else other_size,
            size=size,
            channels=3 if channels is None else channels,
            mean=0.5 if mean is None else mean,
            std=0.5 if std is None else std,
            grey=grey,
        )
    if channels not in (None, 1) or grey:
        option = "grey" if grey else f"channels={channels}"
        raise InfomaxError(f"{encoder}: a spectrogram has one channel, but here is {option}", "leave that out")
    return LogMel(
        size,
        spectrogram,
        mean=_one(encoder, "mean", MEAN if mean is None else mean),
        std=_one(encoder, "std", STD if std is None else std),
        encoder=encoder,
        least_frames=size,
    )


def _one(encoder: str, name: str, values: Values) -> float:
    if isinstance(values, int | float):
        return float(values)
    raise InfomaxError(f"{encoder}: {name} of a spectrogram is one number, not {list(values)}")
