"""InfoNCE over a grid of patches (Oord et al. 2018, section 3.2), as Greedy InfoMax uses it (Löwe et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Batch, BlockSpec, DoesNotFit, Features, InfomaxError, LossOutput, stop_gradient

from . import _negatives
from ._scoring import Reach, score_candidates

Direction = Literal["down", "up", "right", "left"]
Sampling = Literal["never_positive", "published"]

# the axis of ``(B, C, H, W)`` that a direction runs along, and whether against its order
_AXES: dict[Direction, tuple[int, bool]] = {"down": (2, False), "up": (2, True), "right": (3, False), "left": (3, True)}


class PatchInfoNCE(nn.Module):
    """Tell the patch `k` + `skip` rows below from negatives, for every step `k` and from every patch's context.

    A prediction ``W_k c_(y,x)`` is scored against the target ``z_(y+k+skip,x)`` and its negatives by a dot product; the
    loss is the cross-entropy of the right one, averaged over patches, then over steps (and directions). Negatives are
    other targets of the same step, from all rows, columns and images. The context ``c`` is that of the block's context
    stage, or the target itself, as in Greedy InfoMax. Of several views each predicts its own patches, and the losses
    are averaged.

    Terms: ``patch_infonce``. Watched: ``accuracy``, the share of predictions that score their target above every
    negative, and ``bound``, ``log(N + 1) - loss``, which in expectation is at most the mutual information, in nats.

    Args:
        spec: the block, whose maps must have two axes.
        steps: how far ahead: 1 to this many, or exactly those listed.
        skip: rows that are never predicted, because their patches share pixels with the context's: 1 for patches that
            overlap by half.
        negatives: how many for each target.
        directions: where to predict. Only ``down`` suits the context stage, which reads from the top.
        sampling: ``never_positive`` draws negatives among the other targets, ``published`` among all, so that they may
            hit the target itself.

    Raises:
        DoesNotFit: the block's maps have not two axes, are too small for the steps, or its context reads downwards and
            other directions are wanted.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        steps: int | list[int] = 5,
        skip: int = 1,
        negatives: int = 16,
        directions: tuple[Direction, ...] = ("down",),
        sampling: Sampling = "never_positive",
    ) -> None:
        super().__init__()
        self.steps, self.skip = _listed(steps), skip
        self.negatives, self.directions, self.sampling = negatives, tuple(dict.fromkeys(directions)), sampling
        self._check_options()
        self._check_fit(spec)
        channels = spec.maps[spec.target].channels
        given = channels if spec.context is None else spec.maps[spec.context].channels
        # W_k, each a weight of its own: of one tensor autograd would make a copy of zeros for the gradient of each
        self.predictors = nn.ModuleDict(
            {way: nn.ModuleList(nn.Linear(given, channels, bias=False) for _ in self.steps) for way in self.directions}
        )

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        losses, accuracies = zip(*(self._view(features) for features in views), strict=True)
        loss = torch.stack(losses).mean()
        return LossOutput(
            terms={"patch_infonce": loss},
            watched={
                "accuracy": torch.stack(accuracies).mean(),
                "bound": math.log(self.negatives + 1) - stop_gradient(loss),
            },
        )

    def _view(self, features: Features) -> tuple[Tensor, Tensor]:
        """The loss of one view and its accuracy."""
        losses, right = [], []
        for way in self.directions:
            targets = _as_lines(features.target, way)
            contexts = targets if features.context is None else _as_lines(features.context, way)
            for step, predictor in zip(self.steps, self.predictors[way], strict=True):  # type: ignore[call-overload]
                scores = self._scores(targets, contexts, predictor.weight, step + self.skip)
                surprise = scores.logsumexp(-1) - scores[..., 0]
                losses.append(surprise.mean())
                # a tie is no success: a block that tells nothing apart scores 0, not 1
                right.append((scores[..., 0] > scores[..., 1:].amax(-1)).to(scores.dtype).flatten())
        return torch.stack(losses).mean(), torch.cat(right).mean()

    def _scores(self, targets: Tensor, contexts: Tensor, weight: Tensor, ahead: int) -> Tensor:
        """Of every prediction `ahead` places on with its target, then its negatives: ``(lines, P, 1, 1 + N)``."""
        lines, _, length = targets.shape
        places = torch.arange(ahead, length, device=targets.device)
        if self.sampling == "never_positive" and lines * len(places) < 2:
            raise InfomaxError(
                f"patch_infonce: {ahead} patches ahead there is one target in this batch, and so no negative",
                "take a larger train.batch or fewer loss.steps",
            )
        draw = _negatives.from_targets if self.sampling == "published" else _negatives.from_other_targets
        negatives = draw(lines, length, places, self.negatives)
        positives = _negatives.target_rows(lines, length, places)
        candidates = torch.cat([positives.unsqueeze(-1), negatives], dim=-1).unsqueeze(2)  # (lines, P, 1, 1 + N)
        # only the contexts that have a target; where it lies the candidates say
        return score_candidates(targets, contexts[..., :-ahead], weight, candidates, Reach(0, length - ahead, (0,)))

    def _check_options(self) -> None:
        for name, value, least in (("skip", self.skip, 0), ("negatives", self.negatives, 1)):
            if value < least:
                raise InfomaxError(f"patch_infonce: {name} is {value}, but must be at least {least}")
        if not self.directions:
            raise InfomaxError("patch_infonce: directions must name at least one of down, up, right, left")

    def _check_fit(self, spec: BlockSpec) -> None:
        target, where = spec.maps[spec.target], f"block {spec.index}"
        if len(target.grid) != 2:
            raise DoesNotFit(
                f"patch_infonce predicts on a grid of two axes, but the maps of {where} have {target.grid}"
            )
        if spec.context is not None:
            if spec.maps[spec.context].grid != target.grid:
                raise DoesNotFit(f"patch_infonce needs a context for every patch, but in {where} their numbers differ")
            if wrong := [way for way in self.directions if way != "down"]:
                raise DoesNotFit(
                    f"patch_infonce: the context of {where} reads downwards: it has seen what lies {wrong[0]}",
                    "leave out loss.directions, or the context: encoder.context=none",
                )
        for way in self.directions:
            length = target.grid[_AXES[way][0] - 2]
            if length <= self.steps[-1] + self.skip:
                raise DoesNotFit(
                    f"patch_infonce predicts {self.steps[-1]} + {self.skip} patches {way}, but {where} has {length}",
                    _advice(length - 1 - self.skip),
                )


def _listed(steps: int | list[int]) -> tuple[int, ...]:
    """The steps in rising order, each once."""
    listed = tuple(range(1, steps + 1)) if isinstance(steps, int) else tuple(sorted(set(steps)))
    if not listed or listed[0] < 1:
        raise InfomaxError(f"patch_infonce: steps is {steps}, but must be a positive number or a list of such")
    return listed


def _advice(most: int) -> str:
    return f"loss.steps={most} is the most" if most >= 1 else "take smaller patches, or a smaller encoder.stride"


def _as_lines(grid: Tensor, way: Direction) -> Tensor:
    """``(B, C, H, W)`` to sequences that run `way`, ``(lines, C, length)``, whose places lie one after the other."""
    axis, backwards = _AXES[way]
    lines = grid.movedim((0, axis, 1), (0, 2, 3))  # (B, across, length, C)
    if backwards:
        lines = lines.flip(2)
    return lines.flatten(0, 1).contiguous().transpose(1, 2)
