"""Resampling in torch, as reading a file resamples: on any device, and differentiable."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core.audio import low_pass
from infomax_cli.errors import UsageError


def resample(x: Tensor, source: int, target: int) -> Tensor:
    """Samples ``(B, C, T)`` at rate `source` to ``(B, C, ceil(T target / source))`` at rate `target`.

    The values are those of `scipy.signal.resample_poly`, which `read_audio` uses.
    """
    if source < 1:
        raise UsageError(f"a sample rate of {source} does not exist", "samples a second, such as 16000")
    shrink = math.gcd(source, target)
    up, down = target // shrink, source // shrink
    if up == down:
        return x
    kernel = _polyphase(up, down).to(x)
    pad = (kernel.shape[-1] - down) // 2
    length = -(-x.shape[-1] * up // down)
    groups = -(-length // up)
    beyond = (groups - 1) * down + kernel.shape[-1] - pad - x.shape[-1]  # zeros that the last group reads
    y = F.conv1d(F.pad(x.flatten(0, 1).unsqueeze(1), (pad, max(0, beyond))), kernel, stride=down)  # (B C, up, groups)
    return y.transpose(1, 2).flatten(1)[:, :length].reshape(*x.shape[:2], length)


@functools.lru_cache(maxsize=16)
def _polyphase(up: int, down: int) -> Tensor:
    """``(up, 1, K)``: one filter for each of the `up` outputs that every `down` inputs make.

    Output m stands at ``m down`` and input k at ``k up`` of the rate that both divide; output p of a group reads input
    j of its window, which begins `pad` inputs early, by the tap at ``p down - (j - pad) up`` from the middle.
    """
    taps = torch.from_numpy(low_pass(up, down)).double() * up
    half = len(taps) // 2
    pad = -(-half // up)
    window = torch.arange(2 * pad + down)
    place = torch.arange(up)[:, None] * down - (window - pad)[None] * up + half
    inside = (place >= 0) & (place < len(taps))
    return torch.where(inside, taps[place.clamp(0, len(taps) - 1)], 0.0).unsqueeze(1)
