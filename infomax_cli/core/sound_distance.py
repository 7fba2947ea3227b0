"""How far one sound is from another: what decoders are trained by, and what they are judged by.

All take sounds ``(B, 1, T)`` in [-1, 1] at the data's rate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core.audio import load_torchaudio

Distance = Callable[[Tensor, Tensor], Tensor]

_RESOLUTIONS = (256, 512, 1024, 2048)  # windows, in samples; hops are a quarter
_PUBLISHED = 1024  # samples, the window of Denoodt et al.'s spectral loss
_MEL_WINDOW, _MEL_HOP, _MEL_BANDS = 4096, 2048, 128  # of their mel loss
_WINDOW, _HOP, _BANDS = 0.025, 0.010, 80  # seconds, seconds, mel bands: of what decoders are judged by
_CEPSTRA = 24  # coefficients of the mel-cepstral distortion, the first of all (loudness) left out
_QUIET = 1e-8  # power of a mel band below which nothing is heard


def _mse(rate: int) -> Distance:
    return F.mse_loss


def _spectral(rate: int) -> Distance:
    """The mean squared difference of power spectra; loss 1 of Denoodt et al."""

    def distance(made: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(_power(made, _PUBLISHED), _power(wanted, _PUBLISHED))

    return distance


def _fft(rate: int) -> Distance:
    """The mean absolute differences of magnitude and of phase of the whole, under one Hann window; their loss 3."""

    def distance(made: Tensor, wanted: Tensor) -> Tensor:
        window = torch.hann_window(made.shape[-1], device=made.device, dtype=made.dtype)
        one, other = torch.fft.rfft(made * window), torch.fft.rfft(wanted * window)
        return F.l1_loss(one.abs(), other.abs()) + F.l1_loss(one.angle(), other.angle())

    return distance


def _mel(rate: int) -> Distance:
    """The mean squared difference of mel spectra in decibels; their loss 5."""

    def decibels(x: Tensor) -> Tensor:
        bands = _bands(_MEL_WINDOW, _MEL_BANDS, rate, "slaney").to(x)
        return 10 * (bands.T @ _power(x, _MEL_WINDOW, _MEL_HOP)).clamp_min(1e-10).log10()

    def distance(made: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(decibels(made), decibels(wanted))

    return distance


def _stft(rate: int) -> Distance:
    """Multi-resolution STFT: spectral convergence and the mean absolute difference of log magnitudes, averaged over
    windows of 256 to 2048 samples (Yamamoto et al. 2020, equations 4 to 6)."""

    def distance(made: Tensor, wanted: Tensor) -> Tensor:
        terms = []
        for window in _fitting(made.shape[-1]):
            one, other = ((_power(x, window) + 1e-7).sqrt() for x in (made, wanted))
            convergence = (one - other).norm(dim=(-2, -1)) / other.norm(dim=(-2, -1))
            terms.append(convergence.mean() + F.l1_loss(one.log(), other.log()))
        return torch.stack(terms).mean()

    return distance


LOSSES: Mapping[str, Callable[[int], Distance]] = {
    "stft": _stft,
    "mse": _mse,
    "spectral": _spectral,
    "fft": _fft,
    "mel": _mel,
}


# --- judging ---------------------------------------------------------------------------------------------------------


def log_mel(x: Tensor, rate: int) -> Tensor:
    """Mel bands in decibels, ``(B, 80, frames)``: windows of 25 ms every 10 ms, nothing below -80 dB."""
    window = round(_WINDOW * rate)
    bands = _bands(window, _BANDS, rate, None).to(x)
    return 10 * (bands.T @ (_power(x, window, round(_HOP * rate)) / window)).clamp_min(_QUIET).log10()


def mel_error(made: Tensor, wanted: Tensor, rate: int) -> Tensor:
    """The mean absolute difference of mel bands, in decibels, of each item ``(B,)``."""
    return (log_mel(made, rate) - log_mel(wanted, rate)).abs().mean((1, 2))


def cepstral_distortion(made: Tensor, wanted: Tensor, rate: int) -> Tensor:
    """Mel-cepstral distortion in decibels of each item ``(B,)``: the distance of 24 cepstra of a frame, the first left
    out, frame by frame (Kubichek 1993)."""
    difference = (log_mel(made, rate) - log_mel(wanted, rate)) * (math.log(10) / 10)
    cepstra = torch.einsum("kb,nbt->nkt", _cosines(_BANDS, _CEPSTRA).to(difference), difference)
    return (10 / math.log(10)) * (2 * cepstra.square().sum(1)).sqrt().mean(1)


def _cosines(bands: int, count: int) -> Tensor:
    """What takes a log power spectrum to its cepstra 1 to `count`: ``log |S| = c_0 + sum of c_k cos(k w)``."""
    order = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    place = torch.arange(bands, dtype=torch.float64) + 0.5
    return torch.cos(math.pi / bands * order * place) / bands


def _power(x: Tensor, window: int, hop: int | None = None) -> Tensor:
    """``(B, 1, T)`` to ``|STFT|²``, ``(B, window / 2 + 1, frames)``."""
    x = F.pad(x, (0, max(0, window // 2 + 1 - x.shape[-1])))  # what is reflected at the edges must be there
    hann = torch.hann_window(window, device=x.device, dtype=x.dtype)
    spectrum = torch.stft(x[:, 0], window, hop or window // 4, window=hann, return_complex=True)
    return spectrum.real.square() + spectrum.imag.square()


def _fitting(length: int) -> list[int]:
    return [window for window in _RESOLUTIONS if window <= length] or [_RESOLUTIONS[0]]


@functools.lru_cache(maxsize=8)
def _bands(window: int, bands: int, rate: int, norm: str | None) -> Tensor:
    """``(window / 2 + 1, bands)``."""
    audio = load_torchaudio("decoding")
    made: Tensor = audio.functional.melscale_fbanks(window // 2 + 1, 0.0, rate / 2, bands, rate, norm=norm)
    return made
