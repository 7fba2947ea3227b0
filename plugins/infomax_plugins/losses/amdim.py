"""The objective of Augmented Multiscale Deep InfoMax, AMDIM (Bachman et al. 2019, equations 3 to 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    UsageError,
    stop_gradient,
)

from ._dim import check_at_least
from ._maps import find_map
from ._scoring import at_least_float
from ._taps import Tap, check_learns, draw_positions, global_tap, local_tap, pairs_of_views

PUBLISHED = ("1x1->5x5", "1x1->7x7", "5x5->5x5")


class AMDIM(nn.Module):
    """Of a vector of one view, tell every location of another view of the same image from those of other images.

    Source and target go through a network each, ``f``, and are scored by ``s = f(source) . f(target) / sqrt(rkhs)``. Of
    each location the loss is ``-log(exp(c(s)) / (exp(c(s)) + the sum of exp(c(s')) over all locations of the other
    images))``, where ``c(s) = clip tanh(s / clip)``; the other locations of the source's own image do not count. It is
    averaged over locations, images and both directions (of more than two views: all pairs), and summed over tasks.

    The source is a global, or one random location of each image, drawn once a view and step. A global with as many
    channels as `rkhs` is taken as it is; every other map has a network, shared by the tasks that read it.

    Terms: one a task, such as ``1x1_to_5x5``, and ``penalty``. Watched, for each task: ``accuracy_1x1_to_5x5``, the
    share of locations that score above every location of the other images; ``chance_1x1_to_5x5``, the loss of who knows
    nothing, ``log(1 + (B - 1) L)``; and ``bound_1x1_to_5x5``, chance less the loss, which in expectation is at most the
    mutual information of source and location, in nats.

    Args:
        spec: the block.
        tasks: ``SOURCE->TARGET``, both a grid; of several maps with that grid the last is meant. Along one axis a grid
            is a number, and the global is 1. In a block without a global, as after a cut, the global is the mean of its
            last map. Two numbers instead, ``[3, 1]``, are the indices of source and target within the block. By default
            those of the published 1x1->5x5, 1x1->7x7 and 5x5->5x5 that the block has the maps for; where it has none,
            from its global to its last map with several positions.
        clip: the range of scores, -clip to clip; null does not clip.
        penalty: weight of the mean of ``s ** 2``, which keeps scores within the range; averaged and summed as the loss.
        rkhs: the width of what ``f`` makes; that of the global by default.
        batch_norm: batch normalisation within the networks as well, not only at their end.
        local_samples: locations drawn from every map, image and view, without replacement; None for all. For maps so
            large that the scores of all would fill the memory, such as the first of a greedy encoder.

    Raises:
        DoesNotFit: there are fewer than two views, or the block lacks the maps, or makes none of them.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        tasks: list[str | list[int]] | None = None,
        clip: float | None = 20.0,
        penalty: float = 0.05,
        rkhs: int | None = None,
        batch_norm: bool = False,
        local_samples: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("amdim", 0, penalty=penalty)
        check_at_least("amdim", 1, rkhs=rkhs, local_samples=local_samples)
        if clip is not None and not clip > 0:
            raise InfomaxError(f"amdim: clip is {clip}, but must be positive", "null does not clip")
        if spec.views < 2:
            raise DoesNotFit(
                f"amdim compares two views of an item, but there is {spec.views}",
                "views: {count: 2, augment: amdim-cifar}, or other augmentations that make them differ",
            )
        self.clip, self.penalty, self.local_samples = clip, penalty, local_samples
        self.tasks = _find_tasks(spec, tasks)
        self.taps = {_key(tap): tap for task in self.tasks for tap in (task.source, task.target)}
        self.rkhs = global_tap(spec, None, "amdim").channels if rkhs is None else rkhs
        self.networks = nn.ModuleDict({key: self._make_network(tap, batch_norm) for key, tap in self.taps.items()})

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        if len(views[0].output) < 2:
            raise InfomaxError(
                "amdim tells an image from the others of its batch, but this batch has one",
                "take a train.batch of at least 2",
            )
        embedded = [{key: self._embed(view, key) for key in self.networks} for view in views]  # (B, L, D) each
        sources = [self._draw_sources(maps) for maps in embedded]  # (B, D) each
        terms, watched, squares = {}, {}, []
        for task in self.tasks:
            loss, square, accuracy = self._judge_task(task, sources, embedded)
            items, locations, _ = embedded[0][_key(task.target)].shape
            chance = torch.full_like(stop_gradient(loss), math.log1p((items - 1) * locations))
            terms[task.name] = loss
            squares.append(square)
            watched[f"accuracy_{task.name}"] = accuracy
            watched[f"chance_{task.name}"] = chance
            watched[f"bound_{task.name}"] = chance - stop_gradient(loss)
        if self.penalty:
            terms["penalty"] = self.penalty * torch.stack(squares).sum()
        return LossOutput(terms, watched)

    def _make_network(self, tap: Tap, batch_norm: bool) -> nn.Module:
        """A mean over a grid has one as well: nothing but the norm at its end holds its scale."""
        ready = tap.positions == 1 and not tap.pooled and tap.channels == self.rkhs
        return nn.Identity() if ready else Embedding(tap.channels, self.rkhs, batch_norm)

    def _embed(self, view: Features, key: str) -> Tensor:
        """What a map's network makes of every location, or of those drawn, ``(B, L, D)``."""
        rows = draw_positions(self.taps[key].rows(view), self.local_samples)  # before the network, which takes longest
        embedded: Tensor = self.networks[key](rows.flatten(0, 1))
        return embedded.view(*rows.shape[:2], -1)

    def _draw_sources(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """A vector of each image for every map that is a source, ``(B, D)``."""
        return {key: _one_location(maps[key]) for key in dict.fromkeys(_key(task.source) for task in self.tasks)}

    def _judge_task(
        self, task: Task, sources: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, mean square of the scores, and accuracy, averaged over the pairs of views."""
        judged = [
            self._judge(sources[one][_key(task.source)], targets[other][_key(task.target)])
            for one, other in pairs_of_views(len(sources))
        ]
        loss, square, accuracy = (torch.stack(values).mean() for values in zip(*judged, strict=True))
        return loss, square, accuracy

    def _judge(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of one pair, for ``(B, D)`` and ``(B, L, D)``."""
        with torch.autocast(source.device.type, enabled=False):
            candidates = at_least_float(target).flatten(0, 1)  # (B L, D)
            scores = at_least_float(source) @ candidates.t() / math.sqrt(self.rkhs)
            scores = scores.view(len(source), *target.shape[:2])  # (source, image, location)
            square = scores.square().mean()
            if self.clip is not None:
                scores = self.clip * torch.tanh(scores / self.clip)
            own = torch.eye(len(scores), dtype=torch.bool, device=scores.device).unsqueeze(-1)
            positive = scores.diagonal().t()  # (B, L)
            negatives = scores.masked_fill(own, -math.inf).flatten(1)  # (B, B L)
            # their sum is the same for all locations of an image; -log(e^p / (e^p + e^n)) is -log sigmoid(p - n)
            loss = -F.logsigmoid(positive - negatives.logsumexp(1, keepdim=True)).mean()
            # a tie is no success: a block that tells nothing apart scores 0, not 1
            accuracy = (positive > negatives.amax(1, keepdim=True)).to(scores.dtype).mean()
        return loss, square, accuracy


@dataclass(frozen=True)
class Task:
    """Predict `target` from `source`; the name is that of its term."""

    name: str
    source: Tap
    target: Tap


class Embedding(nn.Module):
    """``f``: ``norm(shortcut(x) + two layers of x)``, for rows ``(N, C)`` to ``(N, D)``.

    The published "fake RKHS" network of convolutions with a kernel of 1x1, which are linear layers on rows. The
    shortcut starts near the identity, where it can, and the two layers at zero.
    """

    def __init__(self, channels: int, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Linear(channels, width, bias=False)
        self.hidden_norm = nn.BatchNorm1d(width) if batch_norm else None
        self.conv2 = nn.Linear(width, width, bias=False)
        self.shortcut = nn.Linear(channels, width)
        self.norm = nn.BatchNorm1d(width)
        nn.init.zeros_(self.conv2.weight)
        if width >= channels:
            nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
            with torch.no_grad():
                self.shortcut.weight.fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        if self.hidden_norm is not None:
            hidden = self.hidden_norm(hidden)
        embedded: Tensor = self.norm(self.conv2(F.relu(hidden)) + self.shortcut(x))
        return embedded


def _one_location(rows: Tensor) -> Tensor:
    """One of the locations ``(B, L, C)`` of each image, ``(B, C)``."""
    items, locations, _ = rows.shape
    if locations == 1:
        return rows[:, 0]
    place = torch.randint(locations, (items,), device=rows.device)
    return rows[torch.arange(items, device=rows.device), place]


def _key(tap: Tap) -> str:
    """The name of a map's network."""
    return f"{'mean' if tap.pooled else 'map'}{tap.index}"


def _find_tasks(spec: BlockSpec, wanted: list[str | list[int]] | None) -> tuple[Task, ...]:
    """Those that are named, which must fit; else those of the published ones that do; else the block's own."""
    if wanted is not None:
        if not wanted:
            raise InfomaxError("amdim: tasks is empty", f"the published are {', '.join(PUBLISHED)}")
        return tuple(dict.fromkeys(_find_task(spec, task) for task in wanted))
    found = []
    for name in PUBLISHED:
        try:
            found.append(_find_task(spec, name))
        except DoesNotFit:
            continue
    return tuple(found) or (_own_task(spec),)


def _own_task(spec: BlockSpec) -> Task:
    """From the block's global to its last map with several positions, whatever its grid."""
    source, target = global_tap(spec, None, "amdim"), local_tap(spec, None, "amdim")
    check_learns(spec, "amdim", source, target)
    grid = target.map.grid
    return Task(f"{'x'.join('1' * len(grid))}_to_{'x'.join(map(str, grid))}", source, target)


def _find_task(spec: BlockSpec, task: str | list[int]) -> Task:
    ends: list[str] | list[int] = task.split("->") if isinstance(task, str) else task
    if len(ends) != 2:
        raise UsageError(f"amdim: {task} names no task", "write 1x1->5x5, or [source, target] by index")
    source, target = (_find_tap(spec, end) for end in ends)
    check_learns(spec, f"amdim: the task {task}", source, target)
    names = [
        end.strip() if isinstance(end, str) else _key(tap) for end, tap in zip(ends, (source, target), strict=True)
    ]
    return Task("_to_".join(names), source, target)


def _find_tap(spec: BlockSpec, address: str | int) -> Tap:
    if isinstance(address, str) and set(address.strip().split("x")) == {"1"}:
        return global_tap(spec, None, "amdim")
    index = find_map(spec, address, "amdim")
    return Tap(index, spec.maps[index])
