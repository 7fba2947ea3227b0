"""What TensorBoard shows of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from infomax_cli.core.api import Batch, DataSpec

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


def log_batch(board: SummaryWriter, batch: Batch, data: DataSpec, shown: int = 4) -> None:
    """The first items of a batch, view by view: audio with its spectrogram, or images."""
    for view, x in enumerate(batch.views):
        x = x[:shown].float().cpu()
        if data.axes == ("time",):
            for place, wave in enumerate(x):
                log_sound(board, f"batch/view{view}/{place}", wave, data.rate)
        elif x.dim() == 4 and x.shape[1] in (1, 3):
            low, high = x.amin(), x.amax()
            board.add_images(f"batch/view{view}", (x - low) / (high - low).clamp_min(1e-9))


def log_sound(board: SummaryWriter, name: str, wave: Tensor, rate: int | None) -> None:
    """A sound ``(1, T)``, where its `rate` is known, and its spectrogram."""
    if rate is not None:
        board.add_audio(f"{name}/audio", wave[0].clamp(-1, 1), sample_rate=rate)
    board.add_image(f"{name}/spectrogram", spectrogram_image(wave[0]))


def log_piece(board: SummaryWriter, name: str, content: Tensor, rate: int | None) -> None:
    """A sound ``(1, T)`` or, without a `rate`, an image ``(C, H, W)``."""
    if rate is None:
        board.add_image(name, content.clamp(0, 1))
    else:
        log_sound(board, name, content, rate)


def spectrogram_image(wave: Tensor, size: int = 400, hop: int = 80) -> Tensor:
    """A log-magnitude spectrogram of ``(T,)`` samples as a grey image ``(1, F, frames)`` in [0, 1], low notes below."""
    size = min(size, len(wave))
    magnitude = torch.stft(wave, size, hop, window=torch.hann_window(size), return_complex=True).abs()
    level = torch.log10(magnitude + 1e-5)
    level = (level - level.min()) / (level.max() - level.min()).clamp_min(1e-9)
    return level.flip(0).unsqueeze(0)
