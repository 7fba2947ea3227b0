"""Points to be looked at: what every depth makes of items, segments or frames, and what is known of each.

A point is an item, its features the mean over all positions; or, in time, a segment: a run of one value of an aligned
label, its features the mean over it; or a single frame. The points are the same at every depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from infomax_cli.core.api import Axis, DataError, DataSpec, Item, LabelSpec, Split, UsageError, torch_generator
from infomax_cli.core.features import Source, batches, maps_of, pool_items, to_labels
from infomax_cli.core.watcher import Nobody, Watcher

Unit = Literal["item", "segment", "frame"]
_AN_ITEM = 8  # segments or frames of an item, at least, so that thousands of items need not be read for as many points


@dataclass(frozen=True)
class Point:
    """`item` of the split, called `id`, from sample `start` to `stop` (of images both are 0); `labels` by name, -1
    where unknown."""

    item: int
    id: str
    start: int
    stop: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Cloud:
    """`points` with their features ``(N, D)`` at each of the `depths`; `label` is known of every one."""

    label: str
    spec: LabelSpec
    unit: Unit
    depths: tuple[int, ...]
    points: tuple[Point, ...]
    features: tuple[Tensor, ...]

    @property
    def classes(self) -> Tensor:
        """The value of the label, ``(N,)``."""
        return torch.tensor([point.labels[self.label] for point in self.points])


def unit_of(data: DataSpec, label: str, *, frames: bool) -> Unit:
    """What a point is: a frame where that is asked for, else a segment of an aligned label, else an item. Raises
    `UsageError` where the data has no such label, or no frames."""
    if label not in data.labels:
        raise UsageError(f"the data has no label {label!r}", f"it has {', '.join(data.labels) or 'none'}")
    if frames and "time" not in data.axes:
        raise UsageError("--frames: the data has no time axis", "leave it out: a point is an item then")
    return "frame" if frames else "segment" if data.labels[label].aligned else "item"


def gather(
    source: Source,
    depths: Sequence[int],
    split: Split,
    data: DataSpec,
    label: str,
    *,
    unit: Unit,
    limit: int,
    fraction: float = 1.0,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Cloud:
    """Up to `limit` points of a `fraction` of the items, which `seed` draws. `source` has a layer for each of `depths`.

    Raises `DataError` where there are fewer than three points, or where all are of one class.
    """
    watcher = watcher or Nobody()
    count = max(1, round(fraction * len(split)))
    order = torch.randperm(len(split), generator=torch_generator("cloud", seed))[:count].tolist()
    each = max(_AN_ITEM, math.ceil(limit / max(1, count)))
    points: list[Point] = []
    features: list[list[Tensor]] = [[] for _ in source.layers]
    watcher.stage("encoding", min(count, limit))
    chosen = _Chosen(split, order)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)  # for encoders whose evaluation draws from a Gaussian
        found = batches(chosen, {label: data.labels[label]}, lambda index: None, watcher.advance, lambda index: None)
        for indices, items in found:
            maps = maps_of(source, items)
            if maps is None:
                continue  # too short for the encoder
            for place, (index, item) in enumerate(zip(indices, items, strict=True)):
                own = [values[place : place + 1] for values in maps]
                made = _points_of(source, own, order[index], item, data, label, unit)
                kept = _drawn(len(made), each, seed, order[index])
                points += [made[number][0] for number in kept]
                for store, layer in zip(features, range(len(own)), strict=True):
                    store += [made[number][1][layer] for number in kept]
            if len(points) >= limit:
                break
    if len(points) < 3:
        raise DataError(f"too little of {label} to look at: {len(points)} points", "choose another label or split")
    if len({point.labels[label] for point in points}) == 1:
        one = named(data.labels[label], points[0].labels[label])
        raise DataError(
            f"nothing is apart: all {len(points)} points are of one {label}, {one}", "choose another label or split"
        )
    rows = tuple(torch.stack(store[:limit]).float().cpu() for store in features)
    return Cloud(label, data.labels[label], unit, tuple(depths), tuple(points[:limit]), rows)


class _Chosen:
    """Some items of a split, in an order of their own."""

    def __init__(self, split: Split, order: Sequence[int]) -> None:
        self.split, self.order = split, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        return self.split[self.order[key[0]], key[1]]

    def item_labels(self, name: str) -> Sequence[int]:
        values = self.split.item_labels(name)
        return [values[index] for index in self.order]


def _drawn(count: int, most: int, seed: int, item: int) -> list[int]:
    if count <= most:
        return list(range(count))
    drawn = torch.randperm(count, generator=torch_generator("cloud item", seed, item))[:most]
    return drawn.sort().values.tolist()


_Made = tuple[Point, list[Tensor]]  # a point and its features, (D,) a layer


def _points_of(
    source: Source, maps: Sequence[Tensor], index: int, item: Item, data: DataSpec, label: str, unit: Unit
) -> list[_Made]:
    """The points of one item, of whose maps ``(1, C, *grid)`` there is one a layer."""
    if unit == "item":
        rows = [pool_items(values, layer, "mean")[0] for layer, values in zip(source.layers, maps, strict=True)]
        stop = item.input.shape[-1] if data.axes == ("time",) else 0
        cells = [(0, 1, 0, stop)]
    else:
        cells, grid, count = _cells(source, item, data, label, unit)
        if not cells:
            return []
        rows = [to_labels(values, layer, grid, count) for layer, values in zip(source.layers, maps, strict=True)]
    made = []
    for first, last, start, stop in cells:
        point = Point(index, item.id, start, stop, _labels_at(item, data, (start + stop) / 2))
        made.append((point, [values[first:last].mean(0) for values in rows]))
    return made


def _cells(
    source: Source, item: Item, data: DataSpec, label: str, unit: Unit
) -> tuple[list[tuple[int, int, int, int]], LabelSpec, int]:
    """The rows of each segment or frame, from one to before another, and its samples; and the grid of the rows with
    their number: the label's, or where it has none that of the deepest frames."""
    spec, length = data.labels[label], item.input.shape[-1]
    values = torch.as_tensor(item.labels[label]).reshape(-1)
    if spec.hop is None:
        spec = _grid_of(source.layers[-1].axes)
        assert spec.hop is not None
        values = values.expand(max(0, int((length - spec.offset) // spec.hop) + 1))
    hop = spec.hop
    breaks = [0, *((values[1:] != values[:-1]).nonzero().flatten() + 1).tolist(), len(values)]
    runs = pairwise(breaks) if unit == "segment" else pairwise(range(len(values) + 1))
    cells = []
    for first, last in runs:
        if first < last and int(values[first]) >= 0:
            start, stop = (int(spec.offset + hop * (edge - 0.5)) for edge in (first, last))
            cells.append((first, last, max(0, start), min(length, stop)))
    return cells, spec, len(values)


def _grid_of(axes: Sequence[Axis]) -> LabelSpec:
    (time,) = (axis for axis in axes if axis.name == "time")
    return LabelSpec(classes=0, hop=time.hop, offset=time.centre)


def _labels_at(item: Item, data: DataSpec, sample: float) -> dict[str, int]:
    """Every label of an item, aligned ones at a sample."""
    found = {}
    for name, spec in data.labels.items():
        values = torch.as_tensor(item.labels.get(name, -1)).reshape(-1)
        place = 0 if spec.hop is None else round((sample - spec.offset) / spec.hop)
        found[name] = int(values[min(max(place, 0), len(values) - 1)]) if len(values) else -1
    return found


def named(spec: LabelSpec, value: int) -> str:
    """A class by its name, or its number."""
    return "unknown" if value < 0 else spec.names[value] if value < len(spec.names) else str(value)


def items_of(points: Sequence[Point]) -> Iterator[int]:
    """The items that points are of, each once, in order."""
    yield from dict.fromkeys(point.item for point in points)
