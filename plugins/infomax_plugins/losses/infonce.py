"""InfoNCE over time (Oord et al. 2018, equation 4), as Greedy InfoMax uses it in every block (Löwe et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import (
    Batch,
    BlockSpec,
    DoesNotFit,
    Features,
    InfomaxError,
    LossOutput,
    stop_gradient,
)

from . import _negatives

Sampling = Literal["batch", "never_positive", "sequence", "speaker", "same_time"]


class InfoNCE(nn.Module):
    """Tell the frame `k` steps ahead from negatives, for every step `k` and from every frame's context.

    A prediction ``W_k c_t`` is scored against the target ``z_(t+k)`` and its negatives by a dot product; the loss is
    the cross-entropy of the right one, averaged over frames, then over steps. The context ``c`` is that of the block's
    context stage, a GRU of the loss's own (``context="gru"``), or the target itself, as in the convolutional blocks of
    Greedy InfoMax. Of several views each predicts its own future, and the losses are averaged.

    Terms: ``infonce``. Watched: ``accuracy``, the share of predictions that score their target above every negative,
    and ``bound``, ``log(N + 1) - loss``, which in expectation is at most the mutual information, in nats.

    Args:
        spec: the block, whose maps must have one axis, time.
        steps: how far ahead: 1 to this many frames, or exactly those listed.
        negatives: how many for each target. Sampling ``same_time`` has always one less than the batch.
        sampling: whence negatives come. ``batch``: any frame of the batch (Löwe's method 1). ``never_positive``: the
            other targets of the same step (Löwe's method 0). ``sequence``: the same sequence (Löwe's method 2).
            ``speaker``: the same speaker (CPC_audio). ``same_time``: the other sequences at the same time (Barello).
        window: contexts and targets lie in a random window of this many frames; negatives need not. None for no window.
        context: ``gru`` adds a context where the block has no context stage of its own.
        context_channels: the width of that GRU.
        bptt: whether its gradient flows back through time; if not, each step takes the hidden state as given.
        score: ``dot``, or ``mean``, the dot product divided by the number of channels (CPC_audio).

    Raises:
        DoesNotFit: the block's maps have more than one axis, are too short for the steps, or lack the speaker.

    Barello's predictors map targets to contexts, with a bias. That bias adds the same to every candidate, so that it
    neither matters nor learns, and the rest is the same bilinear form: this class covers them without it.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        steps: int | list[int] = 12,
        negatives: int = 10,
        sampling: Sampling = "batch",
        window: int | None = 128,
        context: Literal["none", "gru"] = "none",
        context_channels: int = 256,
        bptt: bool = True,
        score: Literal["dot", "mean"] = "dot",
    ) -> None:
        super().__init__()
        self.steps = _listed(steps)
        if negatives < 1:
            raise InfomaxError(f"infonce: negatives is {negatives}, but must be at least 1")
        self.negatives, self.sampling, self.window, self.bptt = negatives, sampling, window, bptt
        self._check_fit(spec)

        channels = spec.maps[spec.target].channels
        self.gru: nn.GRU | None = None
        if spec.context is not None:
            given = spec.maps[spec.context].channels
        elif context == "gru":
            given = context_channels
            self.gru = nn.GRU(channels, context_channels, batch_first=True)
        else:
            given = channels
        # W_k for every step, one below the other
        self.predictors = nn.Linear(given, len(self.steps) * channels, bias=False)
        self.scale = 1.0 / channels if score == "mean" else 1.0

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        losses, accuracies, bounds = zip(*(self._view(features, batch) for features in views), strict=True)
        return LossOutput(
            terms={"infonce": torch.stack(losses).mean()},
            watched={"accuracy": torch.stack(accuracies).mean(), "bound": torch.stack(bounds).mean()},
        )

    def _view(self, features: Features, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of one view, its accuracy and the bound."""
        target = features.target  # (B, C, T)
        start, stop = self._window_of(target.shape[-1])
        context = self._context_of(features, stop)[..., start:]  # (B, H, L)
        predictions = self._predict(context)  # (K, B, P, C), P the frames of the window that any step predicts
        with torch.autocast(target.device.type, enabled=False):
            predicted = slice(start + self.steps[0], stop)
            scores = self._scores(_at_least_float(predictions), _at_least_float(target), predicted, batch)
            return self._judge(scores * self.scale)

    def _window_of(self, frames: int) -> tuple[int, int]:
        """The first frame of a random window and the one after its last."""
        length = frames if self.window is None else min(self.window, frames)
        if length <= self.steps[-1]:
            raise InfomaxError(
                f"infonce predicts {self.steps[-1]} frames ahead, but an item of this batch has only {frames}",
                "leave out such short items, or take fewer steps",
            )
        start = int(torch.randint(frames - length + 1, ()))  # on the CPU: a GPU need not be waited for
        return start, start + length

    def _context_of(self, features: Features, stop: int) -> Tensor:
        """The context of the frames before `stop`, ``(B, H, stop)``."""
        context = features.target if features.context is None else features.context
        if self.gru is None:
            return context[..., :stop]
        frames = context[..., :stop].transpose(1, 2)
        hidden: Tensor
        if self.bptt:
            hidden = self.gru(frames)[0]
        else:
            with torch.no_grad():
                hidden = self.gru(frames)[0]
            # what every step starts from is known, so that all steps are taken at once
            hidden = _gru_step(self.gru, frames, F.pad(stop_gradient(hidden)[:, :-1], (0, 0, 1, 0)))
        return hidden.transpose(1, 2)

    def _predict(self, context: Tensor) -> Tensor:
        """``W_k c_(s-k)`` for every step k and every target frame s, ``(K, B, P, C)``; zero where s - k < 0."""
        _, given, length = context.shape
        first, last = self.steps[0], self.steps[-1]
        padded = F.pad(context.transpose(1, 2), (0, 0, last, 0))  # (B, last + L, H)
        read = torch.stack([padded[:, last + first - k : last + length - k] for k in self.steps])  # (K, B, P, H)
        weights = self.predictors.weight.view(len(self.steps), -1, given)  # (K, C, H)
        return torch.bmm(read.flatten(1, 2), weights.transpose(1, 2)).view(*read.shape[:3], -1)

    def _scores(self, predictions: Tensor, target: Tensor, predicted: slice, batch: Batch) -> Tensor:
        """Of every prediction with its target, then with its negatives: ``(B, P, K, 1 + N)``."""
        if self.sampling == "same_time":
            return _scores_at_same_time(predictions, target[..., predicted])
        items, _, frames = target.shape
        times = torch.arange(predicted.start, predicted.stop, device=target.device)
        rows = target.transpose(1, 2).flatten(0, 1)  # (B T, C)
        if self.sampling == "never_positive":
            return self._scores_by_step(predictions, rows, frames, times)
        if self.sampling == "speaker":
            negatives = _negatives.from_speaker(batch.labels["speaker"], frames, times, self.negatives)
        elif self.sampling == "sequence":
            negatives = _negatives.from_sequence(items, frames, times, self.negatives)
        else:
            negatives = _negatives.from_batch(items, frames, times, self.negatives)
        # all steps share the negatives of a target, so that each is fetched and read once
        candidates = _with_targets(negatives, frames, times)  # (B, P, 1 + N)
        fetched = _fetch(rows, candidates).flatten(0, 1)  # (B P, 1 + N, C)
        scores = torch.bmm(predictions.flatten(1, 2).transpose(0, 1), fetched.transpose(1, 2))  # (B P, K, 1 + N)
        return scores.view(items, len(times), *scores.shape[1:])

    def _scores_by_step(self, predictions: Tensor, rows: Tensor, frames: int, times: Tensor) -> Tensor:
        """As `_scores`, each step with negatives of its own."""
        items = len(rows) // frames
        scores = []
        for prediction, step in zip(predictions, self.steps, strict=True):
            skipped = step - self.steps[0]  # targets too early in the window for this step
            reached = times[skipped:]
            if items * len(reached) < 2:
                raise InfomaxError(
                    f"infonce: sampling never_positive has no other target {step} frames ahead in this batch",
                    "take larger batches, longer crops or fewer steps",
                )
            negatives = _negatives.from_other_targets(items, frames, reached, self.negatives)
            fetched = _fetch(rows, _with_targets(negatives, frames, reached))  # (B, P', 1 + N, C)
            found = (fetched @ prediction[:, skipped:, :, None]).squeeze(-1)
            scores.append(F.pad(found, (0, 0, skipped, 0)))
        return torch.stack(scores, dim=2)

    def _judge(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, accuracy and bound from scores ``(B, P, K, 1 + N)``."""
        steps = torch.tensor(self.steps, device=scores.device)
        places = self.steps[0] + torch.arange(scores.shape[1], device=scores.device)  # of the targets in the window
        exists = (places[:, None] >= steps).to(scores.dtype)  # (P, K): does the context lie in the window?
        pairs = len(scores) * exists.sum(0)  # (K,)
        positive, negatives = scores[..., 0], scores[..., 1:]
        surprise = scores.logsumexp(-1) - positive  # (B, P, K)
        loss = ((surprise * exists).sum((0, 1)) / pairs).mean()
        # a tie is no success: a block that tells nothing apart scores 0, not 1
        right = (positive > negatives.amax(-1)).to(scores.dtype)
        accuracy = (right * exists).sum() / pairs.sum()
        return loss, accuracy, math.log(scores.shape[-1]) - stop_gradient(loss)

    def _check_fit(self, spec: BlockSpec) -> None:
        target = spec.maps[spec.target]
        where = f"block {spec.index}"
        if len(target.grid) != 1:
            raise DoesNotFit(
                f"infonce predicts along one axis, time, but the maps of {where} have {len(target.grid)}: {target.grid}"
            )
        if spec.context is not None and spec.maps[spec.context].grid != target.grid:
            raise DoesNotFit(f"infonce needs a context for every frame, but in {where} their numbers differ")
        if target.grid[0] <= self.steps[-1]:
            raise DoesNotFit(
                f"infonce predicts {self.steps[-1]} frames ahead, but {where} makes only {target.grid[0]}",
                "take longer crops or fewer steps",
            )
        if self.window is not None and self.window <= self.steps[-1]:
            raise DoesNotFit(
                f"infonce predicts {self.steps[-1]} frames ahead, but its window is {self.window} frames long",
                "take a wider window or fewer steps",
            )
        if self.sampling == "speaker":
            label = spec.data.labels.get("speaker")
            if label is None or label.aligned:
                raise DoesNotFit(
                    "infonce: sampling speaker needs an item's label 'speaker', which this data lacks",
                    "take another sampling, such as sequence",
                )


def _listed(steps: int | list[int]) -> tuple[int, ...]:
    """The steps in rising order, each once."""
    listed = tuple(range(1, steps + 1)) if isinstance(steps, int) else tuple(sorted(set(steps)))
    if not listed or listed[0] < 1:
        raise InfomaxError(f"infonce: steps is {steps}, but must be a positive number or a list of such")
    return listed


def _at_least_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _with_targets(negatives: Tensor, frames: int, times: Tensor) -> Tensor:
    """The rows of the targets, then of their negatives, ``(B, P, 1 + N)``."""
    targets = _negatives.target_rows(len(negatives), frames, times)
    return torch.cat([targets.unsqueeze(-1), negatives], dim=-1)


def _fetch(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]``, ``(*index, C)``. Its gradient, unlike that of indexing, is summed in a fixed order."""
    return F.embedding(index, rows)


def _scores_at_same_time(predictions: Tensor, target: Tensor) -> Tensor:
    """Of predictions ``(K, B, P, C)`` with all targets ``(B, C, P)`` of their time, the own first: ``(B, P, K, B)``."""
    steps, items, length, _ = predictions.shape
    if items < 2:
        raise InfomaxError(
            "infonce: sampling same_time compares the items of a batch, but this batch has one", "take larger batches"
        )
    scores = torch.bmm(predictions.permute(2, 0, 1, 3).flatten(1, 2), target.permute(2, 1, 0))  # (P, K B, B)
    scores = scores.view(length, steps, items, items)
    item = torch.arange(items, device=scores.device)
    own_first = (item[:, None] + item) % items
    return scores.gather(-1, own_first.expand_as(scores)).permute(2, 0, 1, 3)


def _gru_step(gru: nn.GRU, frames: Tensor, hidden: Tensor) -> Tensor:
    """One step of `gru` from every hidden state ``(B, T, H)`` on its frame ``(B, T, C)`` (Cho et al. 2014)."""
    weight_seen, weight_kept, bias_seen, bias_kept = gru.all_weights[0]
    seen = F.linear(frames, weight_seen, bias_seen).chunk(3, dim=-1)
    kept = F.linear(hidden, weight_kept, bias_kept).chunk(3, dim=-1)
    reset, update = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
    new = torch.tanh(seen[2] + reset * kept[2])
    return new + update * (hidden - new)
