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
from ._scoring import Reach, at_least_float, score_candidates

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
        predictors_start: ``published`` starts W as any linear layer, ``unit`` so that scores of units of variance 1
            have variance 1. The former's dot products have a third of the number of channels, which drives such units
            to shrink.

    Raises:
        DoesNotFit: the block's maps have more than one axis, are too short for the steps, or lack the speaker.

    Barello's predictors map targets to contexts, with a bias. That bias adds the same to every candidate, so that it
    neither matters nor learns, and the rest is the same bilinear form: this class covers them without it.
    """

    ahead: Tensor  # the steps

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
        predictors_start: Literal["published", "unit"] = "published",
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
        if predictors_start == "unit":
            nn.init.normal_(self.predictors.weight, 0.0, 1 / (self.scale * math.sqrt(given * channels)))
        # where it is needed, so that no step waits for a copy
        self.register_buffer("ahead", torch.tensor(self.steps), persistent=False)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        losses, accuracies, bounds = zip(*(self._view(features, batch) for features in views), strict=True)
        return LossOutput(
            terms={"infonce": torch.stack(losses).mean()},
            watched={"accuracy": torch.stack(accuracies).mean(), "bound": torch.stack(bounds).mean()},
        )

    def _view(self, features: Features, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of one view, its accuracy and the bound."""
        target = features.target  # (B, C, T)
        reach = self._reach_of(target.shape[-1])
        context = self._context_of(features, reach)
        if self.sampling == "same_time":
            scores = self._scores_at_same_time(target, context, reach)
        else:
            candidates = self._candidates(target, reach, batch)
            scores = score_candidates(target, context, self.predictors.weight, candidates, reach)
        return self._judge(scores * self.scale)

    def _reach_of(self, frames: int) -> Reach:
        """A random window of the map."""
        length = frames if self.window is None else min(self.window, frames)
        if length <= self.steps[-1]:
            raise InfomaxError(
                f"infonce predicts {self.steps[-1]} frames ahead, but an item of this batch has only {frames}",
                "leave out such short items, or take fewer steps",
            )
        start = int(torch.randint(frames - length + 1, ()))  # on the CPU: a GPU need not be waited for
        return Reach(start, start + length, self.steps)

    def _context_of(self, features: Features, reach: Reach) -> Tensor | None:
        """The context of the window's frames, ``(B, H, L)``; None where that is the target itself."""
        if self.gru is None:
            return None if features.context is None else features.context[..., reach.start : reach.stop]
        context = features.target if features.context is None else features.context
        frames = context[..., : reach.stop].transpose(1, 2)
        hidden: Tensor
        if self.bptt:
            hidden = self.gru(frames)[0]
        else:
            with torch.no_grad():
                hidden = self.gru(frames)[0]
            # what every step starts from is known, so that all steps are taken at once
            hidden = _gru_step(self.gru, frames, F.pad(stop_gradient(hidden)[:, :-1], (0, 0, 1, 0)))
        return hidden[:, reach.start :].transpose(1, 2)

    def _candidates(self, target: Tensor, reach: Reach, batch: Batch) -> Tensor:
        """The rows of every target, then of its negatives: ``(B, P, 1, 1 + N)``, or ``(B, P, K, 1 + N)``."""
        items, _, frames = target.shape
        times = torch.arange(reach.start + self.steps[0], reach.stop, device=target.device)
        if self.sampling == "never_positive":
            return self._candidates_by_step(items, frames, times)
        if self.sampling == "speaker":
            negatives = _negatives.from_speaker(batch.labels["speaker"], frames, times, self.negatives)
        elif self.sampling == "sequence":
            negatives = _negatives.from_sequence(items, frames, times, self.negatives)
        else:
            negatives = _negatives.from_batch(items, frames, times, self.negatives)
        # all steps share the negatives of a target, so that each is fetched and read once
        return _with_targets(negatives, frames, times).unsqueeze(2)

    def _candidates_by_step(self, items: int, frames: int, times: Tensor) -> Tensor:
        """As `_candidates`, each step with negatives of its own; any row where a step reaches no target."""
        candidates = []
        for step in self.steps:
            skipped = step - self.steps[0]  # targets too early in the window for this step
            reached = times[skipped:]
            if items * len(reached) < 2:
                raise InfomaxError(
                    f"infonce: sampling never_positive has no other target {step} frames ahead in this batch",
                    "take a larger train.batch, a longer data.crop or fewer loss.steps",
                )
            negatives = _negatives.from_other_targets(items, frames, reached, self.negatives)
            candidates.append(F.pad(_with_targets(negatives, frames, reached), (0, 0, skipped, 0)))
        return torch.stack(candidates, dim=2)

    def _scores_at_same_time(self, target: Tensor, context: Tensor | None, reach: Reach) -> Tensor:
        """Of every prediction with all targets of its time, its own item's first: ``(B, P, K, B)``."""
        items = len(target)
        if items < 2:
            raise InfomaxError(
                "infonce: sampling same_time compares the items of a batch, but this batch has one",
                "take a train.batch of at least 2",
            )
        window = target[..., reach.start : reach.stop]
        predictions = self.predictors((window if context is None else context).transpose(1, 2))  # (B, L, K C)
        with torch.autocast(target.device.type, enabled=False):
            aligned = reach.align(predictions.view(*predictions.shape[:2], len(self.steps), -1))  # (B, P, K, C)
            targets = at_least_float(window[..., self.steps[0] :]).permute(2, 1, 0)  # (P, C, B)
            scores = aligned.transpose(0, 1) @ targets.unsqueeze(1)  # (P, B, K, B)
        item = torch.arange(items, device=scores.device)
        own_first = ((item[:, None] + item) % items).unsqueeze(1)
        return scores.gather(-1, own_first.expand_as(scores)).transpose(0, 1)

    def _judge(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, accuracy and bound from scores ``(B, P, K, 1 + N)``."""
        places = self.steps[0] + torch.arange(scores.shape[1], device=scores.device)  # of the targets in the window
        exists = (places[:, None] >= self.ahead).to(scores.dtype)  # (P, K): does the context lie in the window?
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


def _with_targets(negatives: Tensor, frames: int, times: Tensor) -> Tensor:
    """The rows of the targets, then of their negatives, ``(B, P, 1 + N)``."""
    targets = _negatives.target_rows(len(negatives), frames, times)
    return torch.cat([targets.unsqueeze(-1), negatives], dim=-1)


def _gru_step(gru: nn.GRU, frames: Tensor, hidden: Tensor) -> Tensor:
    """One step of `gru` from every hidden state ``(B, T, H)`` on its frame ``(B, T, C)`` (Cho et al. 2014)."""
    weight_seen, weight_kept, bias_seen, bias_kept = gru.all_weights[0]
    seen = F.linear(frames, weight_seen, bias_seen).chunk(3, dim=-1)
    kept = F.linear(hidden, weight_kept, bias_kept).chunk(3, dim=-1)
    reset, update = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
    new = torch.tanh(seen[2] + reset * kept[2])
    return new + update * (hidden - new)
