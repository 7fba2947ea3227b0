"""What a representation must beat, beside the same encoder untrained: MFCCs, and the raw input itself."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core.api import Axis, DataSpec, LabelSpec, UsageError
from infomax_cli.core.audio import load_torchaudio
from infomax_cli.core.features import Layer, Source

Baseline = Literal["random", "mfcc", "raw"]
BASELINES: tuple[Baseline, ...] = ("random", "mfcc", "raw")

WINDOW, HOP = 0.025, 0.010  # seconds
_COEFFICIENTS = 13


class Mfcc:
    """13 mel-frequency cepstral coefficients with their first and second differences in time, 39 in all.

    Windows of 25 ms every 10 ms with nothing beyond the edges: at 16 kHz frame ``i`` sees the samples
    ``[160 i, 160 i + 400)``, as a phone label does. Where an item is pooled, the standard deviation stands beside the
    mean. Needs torchaudio.
    """

    def __init__(self, data: DataSpec) -> None:
        if data.axes != ("time",) or data.rate is None or data.channels != 1:
            raise UsageError("--baseline mfcc: the data is not sound of one channel", "leave mfcc out, or take raw")
        self._audio = load_torchaudio("--baseline mfcc")
        self.window, self.hop = round(WINDOW * data.rate), round(HOP * data.rate)
        spectrum = {"n_fft": self.window, "hop_length": self.hop, "n_mels": 40, "center": False}
        self._mfcc = self._audio.transforms.MFCC(data.rate, _COEFFICIENTS, log_mels=True, melkwargs=spectrum)
        self.layers = (Layer("mfcc", (Axis("time", self.hop, self.window / 2, self.window),), deviation=True),)

    @torch.no_grad()
    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, 1, T)`` to ``(B, 39, frames)``."""
        still = self._mfcc(x[:, 0])
        # differences over five frames; at the edges the first and the last frame are repeated
        slope = self._audio.functional.compute_deltas(still)
        return (torch.cat([still, slope, self._audio.functional.compute_deltas(slope)], 1),)


def raw_source(data: DataSpec, label: LabelSpec) -> Source:
    """The raw input as that label can be read from it at all: `Windows`, `Spectrum` or `Pixels`."""
    if "time" not in data.axes:
        return Pixels()
    if data.axes != ("time",):
        raise UsageError("--baseline raw: there is none for this kind of data", "leave raw out")
    if label.aligned:
        return Windows(label, data.rate)
    return Spectrum(data.rate)


class Windows:
    """For aligned labels: the samples of the 25 ms about each label's centre (400 at 16 kHz), as they are."""

    def __init__(self, label: LabelSpec, rate: int | None) -> None:
        assert label.hop is not None
        self.hop = label.hop
        self.window = round(WINDOW * rate) if rate else label.hop
        self.first = int(label.offset - self.window / 2)  # of the first window; may lie before the item
        self.layers = (Layer("raw windows", (Axis("time", self.hop, label.offset, self.window),)),)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, T)`` to ``(B, C * window, frames)``; zeros stand where a window lies outside of the item."""
        x = F.pad(x, (-self.first, self.window)) if self.first < 0 else F.pad(x[..., self.first :], (0, self.window))
        frames = x.unfold(-1, self.window, self.hop)  # (B, C, frames, window)
        return (frames.permute(0, 1, 3, 2).flatten(1, 2),)


class Spectrum:
    """For labels of a whole sound: its log-magnitude spectrum, in windows of 25 ms every 10 ms.

    Its mean over time is what of the raw waveform survives pooling; the mean of the samples themselves says nothing.
    """

    def __init__(self, rate: int | None) -> None:
        rate = rate or 16000
        self.window, self.hop = round(WINDOW * rate), round(HOP * rate)
        self.layers = (Layer("log spectrum", (Axis("time", self.hop, self.window / 2, self.window),)),)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, T)`` to ``(B, C * (window / 2 + 1), frames)``."""
        frames = x.unfold(-1, self.window, self.hop) * torch.hann_window(self.window)
        magnitude = torch.fft.rfft(frames).abs()  # (B, C, frames, bins)
        return ((magnitude + 1e-5).log().permute(0, 1, 3, 2).flatten(1, 2),)


class Pixels:
    """For images of one size: every pixel a feature."""

    layers = (Layer("pixels", ()),)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, H, W)`` to ``(B, C * H * W)``."""
        return (x.flatten(1),)
