"""The distances between sounds, beside slow loops of what was published."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infomax_cli.core.sound_distance import LOSSES, cepstral_distortion, log_mel, mel_error

RATE, LENGTH = 16000, 4800


def sounds(length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 2, 1, length, generator=generator, dtype=torch.float64) * 0.1
    return one, other


def stft(x: NDArray[np.float64], window: int, hop: int) -> NDArray[np.complex128]:
    """``(frames, bins)``, one transform after the other."""
    padded = np.pad(x, window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(padded) - window + 1, hop)
    return np.stack([np.fft.rfft(hann * padded[start : start + window]) for start in starts])


def bands(window: int, count: int, slaney: bool) -> NDArray[np.float64]:
    """Triangles on the HTK mel scale, ``(bins, count)``."""
    mels = np.linspace(0, 2595 * math.log10(1 + RATE / 2 / 700), count + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.linspace(0, RATE / 2, window // 2 + 1)
    found = np.zeros((len(frequencies), count))
    for b in range(count):
        low, middle, high = edges[b : b + 3]
        for i, frequency in enumerate(frequencies):
            up, down = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
            found[i, b] = max(0.0, min(up, down)) * (2 / (high - low) if slaney else 1.0)
    return found


def reference(name: str, made: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    if name == "mse":
        return float(np.mean((made - wanted) ** 2))
    if name == "spectral":
        pairs = [(np.abs(stft(a, 1024, 256)) ** 2, np.abs(stft(b, 1024, 256)) ** 2)
                 for a, b in zip(made, wanted, strict=True)]  # fmt: skip
        return float(np.mean([(a - b) ** 2 for a, b in pairs]))
    if name == "fft":
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(made.shape[1]) / made.shape[1])
        one, other = np.fft.rfft(hann * made), np.fft.rfft(hann * wanted)
        return float(np.mean(np.abs(np.abs(one) - np.abs(other))) + np.mean(np.abs(np.angle(one) - np.angle(other))))
    if name == "mel":
        bank = bands(4096, 128, slaney=True)
        decibels = [[10 * np.log10(np.maximum(1e-10, np.abs(stft(x, 4096, 2048)) ** 2 @ bank)) for x in side]
              for side in (made, wanted)]  # fmt: skip
        return float(np.mean((np.array(decibels[0]) - np.array(decibels[1])) ** 2))
    terms = []
    for window in (256, 512, 1024, 2048):
        convergences, logs = [], []
        for a, b in zip(made, wanted, strict=True):
            one, other = (np.sqrt(np.abs(stft(x, window, window // 4)) ** 2 + 1e-7) for x in (a, b))
            convergences.append(np.linalg.norm(one - other) / np.linalg.norm(other))
            logs.append(np.mean(np.abs(np.log(one) - np.log(other))))
        terms.append(np.mean(convergences) + np.mean(logs))
    return float(np.mean(terms))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_published_formula(name: str) -> None:
    made, wanted = sounds()
    found = LOSSES[name](RATE)(made.requires_grad_(), wanted)
    expected = reference(name, made.detach()[:, 0].numpy(), wanted[:, 0].numpy())
    assert found.item() == pytest.approx(expected, rel=1e-6)  # torchaudio's filters are single precision
    found.backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert made.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("length", [600, 5000])
def test_equal_sounds_of_any_length_are_no_distance_apart(name: str, length: int) -> None:
    x = sounds(length)[0].float()
    assert float(LOSSES[name](RATE)(x, x)) == 0.0


def test_twice_as_loud_is_six_decibels_and_no_distortion() -> None:
    x = sounds()[0]
    torch.testing.assert_close(mel_error(2 * x, x, RATE), torch.full((2,), 20 * math.log10(2)).double())
    torch.testing.assert_close(cepstral_distortion(2 * x, x, RATE), torch.zeros(2).double(), atol=1e-6, rtol=0)


def test_distortion_is_kubichek_s_formula() -> None:
    made, wanted = sounds()
    spectra = [log_mel(x, RATE).numpy() * math.log(10) / 10 for x in (made, wanted)]  # (B, 80, frames), natural logs
    expected = []
    for one, other in zip(*spectra, strict=True):
        frames = []
        for t in range(one.shape[1]):
            total = 0.0
            for k in range(1, 25):
                cosines = [math.cos(math.pi * k * (b + 0.5) / 80) for b in range(80)]
                cepstra = [sum(c * v for c, v in zip(cosines, side[:, t], strict=True)) / 80 for side in (one, other)]
                total += (cepstra[0] - cepstra[1]) ** 2
            frames.append(10 / math.log(10) * math.sqrt(2 * total))
        expected.append(sum(frames) / len(frames))
    torch.testing.assert_close(cepstral_distortion(made, wanted, RATE), torch.tensor(expected).double())
