"""What latents can be decoded to, and what is said where they cannot."""

from __future__ import annotations

import math

import pytest
import torch

from infomax_cli.core.api import DataSpec
from infomax_cli.core.image_distance import ms_ssim, psnr
from infomax_cli.core.media import medium_of
from infomax_cli.errors import UsageError

SOUND = DataSpec(1, (3200,), ("time",), 16000, {}, {"train": 1})
IMAGES = DataSpec(3, (32, 32), ("height", "width"), None, {}, {"train": 1})


def images(size: int = 32, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    one = torch.rand(2, channels, size, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(one.shape, generator=generator, dtype=torch.float64)
    return one, (one + 0.1 * noise).clamp(0, 1)


def test_losses_add_up() -> None:
    made, wanted = torch.randn(2, 2, 1, 3200)
    medium = medium_of(SOUND)
    parts = [medium.loss(name)(made, wanted) for name in ("mse", "mel")]
    torch.testing.assert_close(medium.loss("mse+mel")(made, wanted), parts[0] + parts[1])
    with pytest.raises(UsageError, match="there is no loss 'mels'"):
        medium.loss("mse+mels")


def test_sound_and_images_have_losses_and_measures_of_their_own() -> None:
    sound, image = medium_of(SOUND), medium_of(IMAGES)
    assert (sound.rate, sound.default_loss) == (16000, "stft")
    assert list(sound.measures) == ["mel_error", "cepstral_distortion"]
    assert (image.rate, image.default_loss) == (None, "mse")
    assert list(image.measures) == ["psnr", "ms_ssim"]


@pytest.mark.parametrize(
    "data",
    [
        DataSpec(2, (3200,), ("time",), 16000, {}, {"train": 1}),
        DataSpec(4, (8, 8), ("height", "width"), None, {}, {"train": 1}),
        DataSpec(1, (8, 8, 8), ("x", "y", "z"), None, {}, {"train": 1}),
    ],
)
def test_other_data_is_refused(data: DataSpec) -> None:
    with pytest.raises(UsageError, match="neither sound of one channel nor images of one or three"):
        medium_of(data)


def test_psnr_is_its_formula() -> None:
    one, other = images()
    expected = [10 * math.log10(1 / float(((a - b) ** 2).mean())) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(psnr(one, other), torch.tensor(expected, dtype=torch.float64))
    assert float(psnr(one, one).min()) == pytest.approx(120)


def slow_ms_ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of images ``(C, H, W)``, pixel by pixel (Wang et al. 2003)."""
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    window = min(11, one.shape[1], one.shape[2])
    bell = [math.exp(-((i - (window - 1) / 2) ** 2) / (2 * 1.5**2)) for i in range(window)]
    mask = torch.tensor([[a * b for b in bell] for a in bell], dtype=torch.float64)
    mask /= mask.sum()
    scales = [s for s in range(5) if min(one.shape[1:]) // 2**s >= window]
    total = sum(weights[s] for s in scales)
    product = 1.0
    for scale in scales:
        if scale:
            one, other = (x.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)) for x in (one, other))
        found = []
        for channel in range(one.shape[0]):
            for top in range(one.shape[1] - window + 1):
                for left in range(one.shape[2] - window + 1):
                    a, b = (x[channel, top : top + window, left : left + window] for x in (one, other))
                    mean_a, mean_b = float((mask * a).sum()), float((mask * b).sum())
                    var_a = float((mask * (a - mean_a) ** 2).sum())
                    var_b = float((mask * (b - mean_b) ** 2).sum())
                    both = float((mask * (a - mean_a) * (b - mean_b)).sum())
                    value = (2 * both + 0.03**2) / (var_a + var_b + 0.03**2)
                    if scale == scales[-1]:
                        value *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
                    found.append(value)
        product *= max(1e-6, sum(found) / len(found)) ** (weights[scale] / total)
    return product


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (14, 3), (24, 1)])
def test_ms_ssim_is_its_formula(size: int, channels: int) -> None:
    one, other = images(size, channels)
    expected = [slow_ms_ssim(a, b) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(ms_ssim(one, other), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(ms_ssim(one, one), torch.ones(2, dtype=torch.float64))
