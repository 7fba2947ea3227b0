"""Log-mel spectrograms, so that an encoder of images may hear: samples ``(B, 1, T)`` to ``(B, 1, F, T')``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

# Of log-energies of speech with the options below. Measured at 32 and at 64 bands: -10.6, -10.8 (deviation 4.25, 4.25)
# on nine utterances of LibriSpeech, -11.6, -11.9 (4.7, 4.6) on sixty recordings of other people, rooms and languages.
MEAN = -11.0
STD = 4.4


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """How samples become a spectrogram, as a recipe writes it: ``spectrogram: {hop: 160}``.

    `window` and `hop` are in samples: a Hann window of 25 ms every 10 ms at 16 kHz. `rate`, in samples a second, is the
    data's; bands reach up to half of it. `floor` is added to the energies before the logarithm, in squares of samples
    in [-1, 1]: what is softer sounds like silence.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}  # a misspelt key is an error

    window: int = 400
    hop: int = 160
    rate: int = 16000
    floor: float = 1e-8


class LogMel(nn.Module):
    """Samples ``(B, 1, T)`` in [-1, 1] to a normalised log-mel spectrogram ``(B, 1, bands, T // hop)``.

    The energy of a band is the mean power of the window's spectrum, weighted by a triangle between the centres of the
    bands beside it; the centres are equally far apart on the mel scale (O'Shaughnessy 1987: 2595 log10(1 + f / 700)).
    It is scaled so that white noise of variance v has energy v in every band. `forward` gives its natural logarithm,
    with `mean` taken off and divided by `std`. Frame ``t`` is centred on samples ``hop t`` to ``hop (t + 1)``; beyond
    the ends the sound is mirrored.

    Args:
        bands: how many; the lowest begins at 0 Hz, the highest ends at half the rate.
        options: window, hop, rate and floor.
        mean, std: of the log-energies; by default those of speech.
        encoder: whose input this is, for messages.
        least_frames: how many that needs.

    Raises:
        InfomaxError: options that make no sense, or a window too short to tell the bands apart.
    """

    out_channels = 1
    hann: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        bands: int,
        options: Spectrogram,
        *,
        mean: float = MEAN,
        std: float = STD,
        encoder: str = "a spectrogram",
        least_frames: int = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.least_frames, self.options = encoder, least_frames, options
        _check(bands, options, std)
        self.size = 1 << (options.window - 1).bit_length()  # of the Fourier transform: a power of two
        hann = torch.hann_window(options.window, dtype=torch.float64)
        filters = mel_filters(bands, self.size, options.rate)
        if not (filters.sum(1) > 0).all():
            raise InfomaxError(
                f"spectrogram: a window of {options.window} samples cannot tell {bands} bands apart",
                "take a longer window, or fewer bands",
            )
        self.register_buffer("hann", (hann / hann.square().sum().sqrt()).float())
        self.register_buffer("filters", (filters / filters.sum(1, keepdim=True)).float())
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """Raises `InfomaxError` on what is no sound of one channel, and on sound of less than `least_frames`."""
        if x.ndim != 3 or x.shape[1] != 1:
            raise InfomaxError(
                f"{self.encoder} takes a spectrogram of sound of one channel, (B, 1, T), not {tuple(x.shape)}",
                "for images leave out encoder.spectrogram" if x.ndim == 4 else "mix the sound to mono",
            )
        if x.shape[-1] < self.least_samples:
            raise InfomaxError(
                f"{self.encoder} needs at least {self.least_samples} samples to make {self.least_frames} frames "
                f"of a spectrogram, got {x.shape[-1]}",
                "leave out such short items, or take longer crops",
            )
        with torch.autocast(x.device.type, enabled=False):  # quiet bands would drown in the rounding of loud ones
            energies = self.filters @ self._power(x.to(self.filters.dtype).squeeze(1))  # (B, bands, T')
            return ((torch.log(energies + self.options.floor) - self.mean) / self.std).unsqueeze(1)

    def axes(self) -> tuple[Axis, Axis]:
        """Frequency, in bands, and time, in samples."""
        time = Axis("time").convolve(self.options.window, self.options.hop, self._padding[0])
        return Axis("frequency"), time

    @property
    def least_samples(self) -> int:
        """The shortest sound that makes the least frames."""
        # no more can be mirrored than there is
        return max(self.least_frames * self.options.hop, max(self._padding) + 1)

    @property
    def _padding(self) -> tuple[int, int]:
        """Samples before the first and after the last, so that there is a frame for every hop."""
        total = self.options.window - self.options.hop
        return total // 2, total - total // 2

    def _power(self, x: Tensor) -> Tensor:
        """Samples ``(B, T)`` to the power of every frequency and frame, ``(B, size / 2 + 1, T')``."""
        frames = F.pad(x, self._padding, mode="reflect").unfold(-1, self.options.window, self.options.hop)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.hann, self.size))  # (B, T', size / 2 + 1, 2)
        return spectrum.square().sum(-1).transpose(1, 2)


def mel_filters(bands: int, size: int, rate: int) -> Tensor:
    """The weight of each frequency of a Fourier transform in each band, ``(bands, size / 2 + 1)`` in float64."""
    highest = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700, dtype=torch.float64))
    edges = 700 * (10 ** (highest * torch.linspace(0, 1, bands + 2, dtype=torch.float64) / 2595) - 1)  # in Hz
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * (rate / size)
    low, centre, high = (edges[place : bands + place].unsqueeze(1) for place in range(3))
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _check(bands: int, options: Spectrogram, std: float) -> None:
    for name, value in {"bands": bands, "hop": options.hop, "rate": options.rate}.items():
        if value < 1:
            raise InfomaxError(f"spectrogram: {name} is {value}, but must be at least 1")
    if options.window < max(options.hop, 2):
        raise InfomaxError(
            f"spectrogram: window is {options.window}, but must be at least the hop, {options.hop}, or sound is lost"
        )
    if not options.floor > 0:
        raise InfomaxError(f"spectrogram: floor is {options.floor}, but must be positive: silence has no logarithm")
    if not std > 0:
        raise InfomaxError(f"spectrogram: std is {std}, but must be positive")
