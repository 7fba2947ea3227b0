"""How far one image is from another: what decoders are trained by, and what they are judged by.

All take images ``(B, C, H, W)`` in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # pixels, of the Gaussian under which SSIM compares
_BRIGHTNESS, _CONTRAST = 0.01**2, 0.03**2  # C1 and C2 for a range of 1
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights, from the finest on


def psnr(made: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of each image ``(B,)``, for a peak of 1."""
    error = (made.clamp(0, 1) - wanted).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-12).log10()


def ms_ssim(made: Tensor, wanted: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image ``(B,)``, at most 1 (Wang et al. 2003, equation 7).

    Images are halved from scale to scale by means of 2 x 2. Of images too small for the window at all five scales only
    the scales that fit are taken, their weights brought to a sum of 1; of those smaller than the window, one scale
    under a smaller window.
    """
    window = min(_WINDOW, *wanted.shape[2:])
    fitting = [scale for scale in range(len(_SCALES)) if min(wanted.shape[2:]) // 2**scale >= window]
    weights = torch.tensor(_SCALES[: len(fitting)])
    weights = weights / weights.sum()
    made = made.clamp(0, 1)
    product = torch.ones(len(made), dtype=made.dtype, device=made.device)
    for scale in fitting:
        if scale > 0:
            made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
        brightness, structure = _compare(made, wanted, window)
        last = scale == fitting[-1]
        similarity = (brightness * structure if last else structure).flatten(1).mean(1)
        product = product * similarity.clamp_min(1e-6) ** float(weights[scale])
    return product


def dissimilarity(made: Tensor, wanted: Tensor) -> Tensor:
    """``1 - MS-SSIM``, the mean over images."""
    return 1 - ms_ssim(made, wanted).mean()


def _compare(one: Tensor, other: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Likeness of brightness, and of contrast and structure, about every pixel whose window fits (equations 1 to 5)."""
    first, second = _blur(one, window), _blur(other, window)
    variance_one = _blur(one * one, window) - first * first
    variance_other = _blur(other * other, window) - second * second
    covariance = _blur(one * other, window) - first * second
    brightness = (2 * first * second + _BRIGHTNESS) / (first.square() + second.square() + _BRIGHTNESS)
    structure = (2 * covariance + _CONTRAST) / (variance_one + variance_other + _CONTRAST)
    return brightness, structure


def _blur(x: Tensor, window: int) -> Tensor:
    place = torch.arange(window, dtype=x.dtype, device=x.device) - (window - 1) / 2
    bell = torch.exp(-place.square() / (2 * _SIGMA**2))
    bell = (bell / bell.sum()).expand(x.shape[1], 1, window)
    x = F.conv2d(x, bell.unsqueeze(2), groups=x.shape[1])
    return F.conv2d(x, bell.unsqueeze(3), groups=x.shape[1])
