"""A classifier on one of a block's maps: the supervised baselines, and monitors of any other run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import (
    Batch,
    BlockSpec,
    DoesNotFit,
    Features,
    Head,
    InfomaxError,
    LabelSpec,
    LossOutput,
    MapSpec,
    make_head,
    pool_to_labels,
    squash_logits,
)

from ._maps import Address, find_map
from ._scoring import at_least_float
from ._taps import Tap, check_learns

Pool = Literal["mean", "flatten", "none"]


class Supervised(nn.Module):
    """Predict a label from one of the block's maps by softmax regression.

    For an aligned label the map is averaged over the frames that geometry puts into each label's cell (and over any
    axis but time); for a label of the whole item `pool` says what of it is read. Unknown labels (-1) count for nothing,
    so that without `detach` the encoder learns from the labelled items alone, beside what its other losses learn from
    all; a batch of nothing else has no term. The losses of several views are averaged.

    With the encoder cut each block gets a head of its own: the greedy supervised baseline of Löwe et al. 2019.

    Terms: ``supervised``, in nats. Watched: ``accuracy``.

    Args:
        spec: the block.
        label: which label of the data.
        detach: only watch: the block learns nothing from it.
        head: ``linear``, ``mlp`` with one hidden layer of ReLUs, or as published: ``dim`` (200 units, dropout 0.1,
            batch norm, ReLU) or ``amdim`` (dropout 0.2, 1024 units without bias, batch norm, ReLU, dropout 0.2). Batch
            norm is taken over labelled items alone, and a GPU waited for to tell which those are.
        hidden: the width of the hidden layer; by default 512, 200 or 1024.
        pool: the ``mean`` over the grid; the whole map in one vector, ``flatten``, as Deep InfoMax reads its
            convolutions; or each position with the item's label, ``none``.
        map: which of the block's maps, by index within the block (0 is its input) or by grid; by default the last.
        clip: logits are ``clip * tanh(logits / clip)``, 10 in AMDIM; not by default.
        penalty: weight of the mean squared logit, before it is clipped: 1e-3 in AMDIM.

    Raises:
        DoesNotFit: the data has no such label; there is no such map, or it is the block's input and the block is to
            learn from it; the label is aligned and the map has no single time axis, or is to be flattened.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        label: str,
        detach: bool = False,
        head: Head = "linear",
        hidden: int | None = None,
        pool: Pool = "mean",
        map: Address = -1,
        clip: float | None = None,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        _check_numbers(hidden, clip, penalty)
        self.label = label
        self.spec = _find_label(label, spec.data.labels)
        self.monitor = detach
        index = find_map(spec, map, "supervised")
        self.tap = Tap(index, spec.maps[index])
        if not detach:
            check_learns(spec, "supervised", self.tap)
        self.time = _time_axis(label, self.tap.map, spec.index) if self.spec.aligned else 0
        self.pool = _checked_pool(pool, label, self.spec)
        self.clip, self.penalty = clip, penalty
        inputs = self.tap.channels * (prod(self.tap.map.grid) if pool == "flatten" else 1)
        self.head = make_head(head, inputs, self.spec.classes, hidden)
        self.mixes_rows = head in ("dim", "amdim")  # batch norm

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        if not batch.knows(self.label):
            return LossOutput(terms={})  # a loss of 0 would look like a perfect one
        labels = batch.labels[self.label]  # (B,), or aligned (B, L)
        losses, accuracies = zip(*(self._view(features, labels) for features in views), strict=True)
        return LossOutput(
            terms={"supervised": torch.stack(losses).mean()}, watched={"accuracy": torch.stack(accuracies).mean()}
        )

    def _view(self, features: Features, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows, labels = self._rows(features, labels)
        known = labels >= 0
        if self.mixes_rows:  # what is not labelled would reach the loss through the batch's mean and deviation
            rows, labels = rows[known], labels[known]
            known = known[known]
        logits = at_least_float(self.head(rows))  # half precision will do for the head, not for sums of exponentials
        count = known.sum().clamp(min=1)
        loss = F.cross_entropy(squash_logits(logits, self.clip), labels, ignore_index=-1, reduction="sum") / count
        if self.penalty:
            loss = loss + self.penalty * (logits.square().mean(1) * known).sum() / count
        accuracy = ((logits.argmax(-1) == labels) & known).sum() / count
        return loss, accuracy

    def _rows(self, features: Features, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be classified ``(N, C)``, and the label of each row ``(N,)``."""
        if self.spec.aligned:
            found = at_least_float(features.maps[self.tap.index])
            return self._pool_aligned(found, labels.shape[1]).flatten(0, 1), labels.flatten()
        if self.pool == "flatten":
            return self.tap.of_known_grid(features, "supervised").flatten(1), labels
        positions = self.tap.rows(features)  # (B, L, C)
        if self.pool == "mean":
            return at_least_float(positions).mean(1), labels
        return positions.flatten(0, 1), labels.repeat_interleave(positions.shape[1])

    def _pool_aligned(self, output: Tensor, count: int) -> Tensor:
        """One vector a label, ``(B, L, C)``."""
        frames = output.movedim(2 + self.time, -1)  # (B, C, *others, T)
        if frames.ndim > 3:
            frames = frames.flatten(2, -2).mean(2)
        return pool_to_labels(frames, self.tap.map.axes[self.time], self.spec, count).transpose(1, 2)


def _find_label(name: str, labels: Mapping[str, LabelSpec]) -> LabelSpec:
    if name in labels:
        return labels[name]
    have = f"it has {', '.join(sorted(labels))}" if labels else "it has no labels at all"
    near = get_close_matches(name, labels, n=1)
    raise DoesNotFit(
        f"supervised: the data has no label '{name}'; {have}", f"did you mean {near[0]}?" if near else None
    )


def _time_axis(label: str, given: MapSpec, block: int) -> int:
    """Which axis of the map is time."""
    names = [axis.name for axis in given.axes]
    if names.count("time") != 1:
        raise DoesNotFit(
            f"supervised: label '{label}' is aligned to time, but the map that it reads in block {block} has "
            f"{'more than one time axis' if 'time' in names else 'no time axis'} (axes: {', '.join(names) or 'none'})",
            "choose a label of the whole item",
        )
    return names.index("time")


def _checked_pool(pool: Pool, label: str, spec: LabelSpec) -> Pool:
    if spec.aligned and pool != "mean":
        raise DoesNotFit(
            f"supervised: pool: {pool} is for labels of the whole item, and '{label}' is aligned to time",
            "leave out pool: frames are brought to the label's own grid",
        )
    return pool


def _check_numbers(hidden: int | None, clip: float | None, penalty: float) -> None:
    if hidden is not None and hidden < 1:
        raise InfomaxError(f"supervised: hidden is {hidden}, but a layer has at least one unit")
    if clip is not None and not clip > 0:
        raise InfomaxError(f"supervised: clip is {clip}, but must be above 0", "leave it out to clip nothing")
    if penalty < 0:
        raise InfomaxError(f"supervised: penalty is {penalty}, but must be at least 0")
