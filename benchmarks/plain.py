"""Greedy InfoMax and CPC on speech, written down as plainly as the papers describe them: what our step is held against.

Each module gathers ``[B T, C, N]`` negatives, of which the window reads a few; every prediction step cuts its slice out
of them; the modules' losses are summed, and one backward pass and one Adam end the step. Given the weights of a model
of ours and seeded alike, it draws the same windows and negatives, and so has the same losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVS = ((10, 5, 2), (8, 4, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1))
_MEAN, _STD = -1456218.75 / 2**31, 135303504 / 2**31
STEPS, NEGATIVES, WINDOW = 12, 10, 128


class PlainModel(nn.Module):
    """Five convolutions with ReLU and a GRU. `greedy` cuts after each; otherwise one loss trains them all."""

    def __init__(self, channels: int = 512, context: int = 256, *, greedy: bool = True) -> None:
        super().__init__()
        self.greedy = greedy
        widths = [1, *[channels] * len(_CONVS)]
        self.convs = nn.ModuleList(
            nn.Conv1d(given, channels, *shape) for given, shape in zip(widths[:-1], _CONVS, strict=True)
        )
        self.gru = nn.GRU(channels, context, batch_first=True)
        given = [channels] * len(_CONVS) + [context] if greedy else [context]
        self.predictors = nn.ModuleList(nn.Linear(width, channels * STEPS, bias=False) for width in given)

    def losses(self, wave: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """The loss of each module for sound ``(B, 1, T)``; module `i` draws from seed ``seeds[i]``."""
        x = (wave - _MEAN) / _STD
        losses = []
        for conv in self.convs:
            x = F.relu(conv(x.detach() if self.greedy else x))
            if self.greedy:
                frames = x.transpose(1, 2)
                losses.append(infonce(frames, frames, self.predictors[len(losses)], seeds[len(losses)]))
        frames = x.transpose(1, 2)
        if self.greedy:
            frames = frames.detach()
        context, _ = self.gru(frames)
        losses.append(infonce(context, frames, self.predictors[len(losses)], seeds[len(losses)]))
        return losses

    def load_ours(self, encoder: nn.Module, predictors: Sequence[nn.Linear]) -> None:
        """Take over the weights of `speech_conv` and of the losses' predictors."""
        named = dict(encoder.named_parameters())
        with torch.no_grad():
            for stage, conv in enumerate(self.convs):
                ours = [named[name] for name in named if name.startswith(f"stages.{stage}.")]
                for mine, its in zip(conv.parameters(), ours, strict=True):
                    mine.copy_(its)
            for mine, its in zip(self.gru.parameters(), encoder.stages[-1].parameters(), strict=True):  # type: ignore[index, union-attr, operator]
                mine.copy_(its)
            for mine, its in zip(self.predictors, predictors, strict=True):
                mine.weight.copy_(its.weight)  # type: ignore[operator, union-attr]


def infonce(context: Tensor, target: Tensor, predictor: nn.Module, seed: int) -> Tensor:
    """The loss of one module, for ``(B, T, H)`` and ``(B, T, C)``."""
    torch.manual_seed(seed)
    items, frames, channels = target.shape
    length = min(WINDOW, frames)
    start = int(torch.randint(frames - length + 1, ()))
    context, positives = context[:, start : start + length], target[:, start : start + length]
    predictions = predictor(context).view(items, length, STEPS, channels)
    reach = length - 1  # frames of the window that any step predicts

    rows = target.reshape(items * frames, channels)
    orders = [torch.randperm(len(rows), device=rows.device) for _ in range(NEGATIVES)]
    negatives = torch.stack([rows[order] for order in orders], dim=2)  # [B T, C, N]: all of them

    losses = []
    for step in range(1, STEPS + 1):
        predicted = predictions[:, : length - step, step - 1].reshape(-1, 1, channels)
        positive = positives[:, step:].reshape(-1, channels, 1)
        negative = negatives[: items * reach].view(items, reach, channels, NEGATIVES)[:, step - 1 :]
        against = negative.reshape(-1, channels, NEGATIVES)
        scores = torch.cat([predicted @ positive, predicted @ against], dim=2).squeeze(1).float()
        losses.append(-F.log_softmax(scores, dim=1)[:, 0].mean())
    return torch.stack(losses).mean()
