"""A classifier on a block's last map: the supervised baselines, and monitors of any other run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import (
    Batch,
    BlockSpec,
    DoesNotFit,
    Features,
    LabelSpec,
    LossOutput,
    MapSpec,
    pool_to_labels,
)


class Supervised(nn.Module):
    """Predict a label from the block's last map by softmax regression.

    For a label of the whole item the map is averaged over its grid; for an aligned one over the frames that geometry
    puts into each label's cell (and over any axis but time). Unknown labels (-1) count for nothing; a batch of nothing
    else gives a loss and an accuracy of zero. The losses of several views are averaged.

    With the encoder cut each block gets a head of its own: the greedy supervised baseline of Löwe et al. 2019.

    Terms: ``supervised``, in nats. Watched: ``accuracy``.

    Args:
        spec: the block.
        label: which label of the data.
        detach: only watch: the block learns nothing from it.
        head: ``linear``, or ``mlp`` with one hidden layer.
        hidden: the width of that layer.

    Raises:
        DoesNotFit: the data has no such label, or it is aligned and the map has no single time axis.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        label: str,
        detach: bool = False,
        head: Literal["linear", "mlp"] = "linear",
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.label = label
        self.spec = _find_label(label, spec.data.labels)
        self.monitor = detach
        self.time = _time_axis(label, spec) if self.spec.aligned else 0
        self.map = spec.output
        self.head = _make_head(head, self.map, hidden, self.spec.classes)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        if not batch.knows(self.label):
            return LossOutput(terms={})  # a loss of 0 would look like a perfect one
        labels = batch.labels[self.label]  # (B,), or aligned (B, L)
        losses, accuracies = zip(*(self._view(features.output, labels) for features in views), strict=True)
        return LossOutput(
            terms={"supervised": torch.stack(losses).mean()}, watched={"accuracy": torch.stack(accuracies).mean()}
        )

    def _view(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if output.dtype in (torch.float16, torch.bfloat16):
            output = output.float()  # means of many frames
        pooled = self._pool_aligned(output, labels.shape[1]) if self.spec.aligned else _mean_over_grid(output)
        logits = self.head(pooled).flatten(0, -2)  # (B or B L, classes)
        labels = labels.flatten()
        known = labels >= 0
        count = known.sum().clamp(min=1)
        # half precision is enough for the head, not for the sum of its exponentials
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count
        accuracy = ((logits.argmax(-1) == labels) & known).sum() / count
        return loss, accuracy

    def _pool_aligned(self, output: Tensor, count: int) -> Tensor:
        """One vector a label, ``(B, L, C)``."""
        frames = output.movedim(2 + self.time, -1)  # (B, C, *others, T)
        if frames.ndim > 3:
            frames = frames.flatten(2, -2).mean(2)
        return pool_to_labels(frames, self.map.axes[self.time], self.spec, count).transpose(1, 2)


def _find_label(name: str, labels: Mapping[str, LabelSpec]) -> LabelSpec:
    if name in labels:
        return labels[name]
    have = f"it has {', '.join(sorted(labels))}" if labels else "it has no labels at all"
    near = get_close_matches(name, labels, n=1)
    raise DoesNotFit(
        f"supervised: the data has no label '{name}'; {have}", f"did you mean {near[0]}?" if near else None
    )


def _time_axis(label: str, spec: BlockSpec) -> int:
    """Which axis of the block's last map is time."""
    names = [axis.name for axis in spec.output.axes]
    if names.count("time") != 1:
        raise DoesNotFit(
            f"supervised: label '{label}' is aligned to time, but the last map of block {spec.index} has "
            f"{'more than one time axis' if 'time' in names else 'no time axis'} (axes: {', '.join(names) or 'none'})",
            "choose a label of the whole item",
        )
    return names.index("time")


def _make_head(head: Literal["linear", "mlp"], given: MapSpec, hidden: int, classes: int) -> nn.Module:
    if head == "linear":
        return nn.Linear(given.channels, classes)
    return nn.Sequential(nn.Linear(given.channels, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def _mean_over_grid(output: Tensor) -> Tensor:
    """``(B, C, *grid)`` to ``(B, C)``."""
    return output.flatten(2).mean(2) if output.ndim > 2 else output
