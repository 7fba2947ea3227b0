"""Scores of predicted frames against candidate frames, with the gradient in closed form.

A prediction ``W_k c_t`` is scored against rows of the target map by dot products. Autograd would keep the fetched rows,
a copy of the map for each of their uses, and a zero-padded map for every slice; in closed form the gradient of scores
``S = P Z'`` is ``dP = dS Z`` and ``dZ = dS' P``, and only the predictions need be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# what is fetched at a time: what a core's cache holds, or what keeps a GPU busy
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_CHUNK_BYTES_ELSEWHERE = 512 * 2**20


@dataclass(frozen=True)
class Reach:
    """Which frames predict which: contexts are the frames ``start .. stop - 1``, and so are their targets.

    `places` P counts the targets, from the first frame that any step reaches to the last of the window.
    """

    start: int
    stop: int
    steps: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def places(self) -> int:
        return self.length - self.steps[0]

    def align(self, predictions: Tensor) -> Tensor:
        """From the frames that predict to those predicted, ``(B, L, K, C)`` to ``(B, P, K, C)``, at least in fp32.

        Zero where no frame of the window predicts.
        """
        items, _, *sizes = predictions.shape
        aligned = at_least_float(predictions.new_empty(0)).new_empty(items, self.places, *sizes)
        for place, step in enumerate(self.steps):
            skipped = step - self.steps[0]
            aligned[:, :skipped, place] = 0
            aligned[:, skipped:, place] = predictions[:, : self.length - step, place]
        return aligned

    def unalign(self, aligned: Tensor, out: Tensor) -> None:
        """The way back, into `out` ``(B, L, K, C)``: zero for frames whose prediction lies behind the window."""
        for place, step in enumerate(self.steps):
            out[:, : self.length - step, place] = aligned[:, step - self.steps[0] :, place]
            out[:, self.length - step :, place] = 0


def score_candidates(
    target: Tensor, context: Tensor | None, weight: Tensor, candidates: Tensor, reach: Reach
) -> Tensor:
    """Scores ``(B, P, K, M)``, at least in fp32, of every prediction with the candidates of the frame it predicts.

    Under autocast the predictions are computed in its type; the dot products are summed in fp32 all the same.

    Args:
        target: the map whose frames are predicted, ``(B, C, T)``.
        context: what predicts them, ``(B, H, L)``, L the frames of the window; None for the target's own frames there.
        weight: ``W_k`` for each of the K steps, one below the other, ``(K C, H)``.
        candidates: rows ``b T + t`` of the target, ``(B, P, G, M)``; G is K, or 1 where all steps share them.
        reach: the window and the steps.
    """
    kind = target.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else target.dtype
    with torch.autocast(kind, enabled=False):
        scores: Tensor = _Scores.apply(target, context, weight, candidates, reach, dtype)
    return scores


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        target: Tensor,
        context: Tensor | None,
        weight: Tensor,
        candidates: Tensor,
        reach: Reach,
        dtype: torch.dtype,
    ) -> Tensor:
        rows = _rows(target)
        given = _context_rows(target, context, reach).to(dtype)
        predictions = (given @ weight.to(dtype).t()).view(len(target), reach.length, len(reach.steps), -1)
        scores = []
        for part in _parts(candidates, rows):
            fetched = _fetch(rows, candidates[part])
            aligned = _grouped(reach.align(predictions[part]), fetched)
            scores.append((aligned @ fetched.transpose(-1, -2)).flatten(2, 3))  # (b, P, K, M)
        ctx.save_for_backward(target, context, weight, candidates, predictions)
        ctx.reach = reach
        return torch.cat(scores)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        target, context, weight, candidates, predictions = ctx.saved_tensors
        reach: Reach = ctx.reach
        rows = _rows(target)
        on_predictions = torch.empty_like(predictions)
        moves_target = ctx.needs_input_grad[0]  # not in a block that only adds a context
        on_fetched = rows.new_empty(*candidates.shape, rows.shape[-1]) if moves_target else None
        for part in _parts(candidates, rows):
            fetched = _fetch(rows, candidates[part])
            through = _grouped(grad[part], fetched)  # (b, P, G, K / G, M)
            reach.unalign((through @ fetched).flatten(2, 3), out=on_predictions[part])
            if on_fetched is not None:
                on_fetched[part] = through.transpose(-1, -2) @ _grouped(reach.align(predictions[part]), fetched)
        on_predictions = on_predictions.flatten(2).flatten(0, 1)  # (B L, K C)
        given = _context_rows(target, context, reach).to(on_predictions.dtype)
        on_weight = on_predictions.t() @ given
        on_given = (on_predictions @ weight.to(on_predictions.dtype)).view(len(target), reach.length, -1)
        on_context = on_given.transpose(1, 2)
        on_target = None
        if on_fetched is not None:
            summed = _sum_rows(on_fetched, candidates, len(rows)).view(len(target), -1, rows.shape[-1])
            if context is None:
                summed[:, reach.start : reach.stop] += on_given
            on_target = summed.transpose(1, 2)
        on_context = None if context is None else on_context.to(context.dtype)
        return on_target, on_context, on_weight.to(weight.dtype), None, None, None


def _rows(frames: Tensor) -> Tensor:
    """``(B, C, T)`` as rows ``(B T, C)``; nothing is copied where the frames lie one after the other."""
    return frames.transpose(1, 2).flatten(0, 1)


def _context_rows(target: Tensor, context: Tensor | None, reach: Reach) -> Tensor:
    """What predicts, ``(B L, H)``."""
    return _rows(target[..., reach.start : reach.stop] if context is None else context)


def _parts(candidates: Tensor, rows: Tensor) -> Iterator[slice]:
    """The items of the batch, as many at a time as fit where they are worked on."""
    room = _CHUNK_BYTES.get(rows.device.type, _CHUNK_BYTES_ELSEWHERE)
    count = max(1, room // (4 * candidates[0].numel() * rows.shape[-1]))
    return (slice(first, first + count) for first in range(0, len(candidates), count))


def _fetch(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]``, ``(*index, C)``, at least in fp32."""
    return at_least_float(rows.index_select(0, index.flatten())).view(*index.shape, -1)


def _grouped(values: Tensor, fetched: Tensor) -> Tensor:
    """``(b, P, K, X)`` with its steps in as many groups as there are sets of candidates: ``(b, P, G, K / G, X)``."""
    groups = fetched.shape[2]
    return values.view(*values.shape[:2], groups, values.shape[2] // groups, -1)


def _sum_rows(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """``(rows, C)``: for each row the sum of the values ``(*index, C)`` whose index it is, always in the same order."""
    summed: Tensor = torch.ops.aten.embedding_dense_backward(values.flatten(0, -2), index.flatten(), rows, -1, False)
    return summed


def at_least_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
