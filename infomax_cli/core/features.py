"""What a frozen encoder, or a baseline in its place, makes of a split: rows that a classifier can learn from.

Nothing here learns. A **source** turns raw input into one map a layer; `extract` brings every map to the labels: to the
grid of an aligned label by geometry, or, for a label of the whole item, by pooling over time or space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from infomax_cli.core.api import (
    Axis,
    Encoder,
    InfomaxError,
    Item,
    LabelSpec,
    PluginError,
    Split,
    UsageError,
    derive_seed,
    pool_to_labels,
)
from infomax_cli.core.blocks import encode, module_of
from infomax_cli.recipe import SamplingOptions

Pool = Literal["mean", "last", "none"]
LIMIT = 4 * 2**30  # bytes of features that one `extract` keeps; beyond it, frames are thinned out
_TOGETHER = 2**19  # samples, pixels: items of one size are encoded together up to so many


@dataclass(frozen=True)
class Layer:
    """One layer of a source: its name, where its frames lie in the raw input, and whether the standard deviation over
    an item stands beside the mean where an item is pooled."""

    name: str
    axes: tuple[Axis, ...]
    deviation: bool = False

    @property
    def time(self) -> int | None:
        """Which dimension of the map is time."""
        places = [place for place, axis in enumerate(self.axes, 2) if axis.name == "time"]
        return places[0] if places else None


class Source(Protocol):
    """Raw input ``(B, C, *grid)`` to a map ``(B, C', *grid')`` for each of `layers`."""

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    def maps(self, x: Tensor) -> tuple[Tensor, ...]: ...


class FrozenEncoder:
    """An encoder as a source: evaluation mode, no gradient, the readout of each of `depths`.

    The encoder given is put into evaluation mode and none of its parameters wants a gradient afterwards.
    """

    def __init__(
        self, encoder: Encoder, sampling: SamplingOptions, device: torch.device, depths: Sequence[int] | None = None
    ) -> None:
        self.encoder, self.sampling, self.device = encoder, sampling, device
        module_of(encoder).eval().requires_grad_(False)
        self.depths = tuple(range(len(encoder.stages)) if depths is None else depths)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(str(depth), self.encoder.geometry(depth)) for depth in self.depths)

    @torch.no_grad()
    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        readouts = encode(self.encoder, x.to(self.device), self.sampling)
        return tuple(readouts[depth] for depth in self.depths)


@dataclass(frozen=True)
class Rows:
    """What one layer knows about one label: `features` ``(N, D)`` in float32, `labels` ``(N,)``, all known, and
    `items` ``(N,)``, the item that each row comes from; all on the CPU."""

    features: Tensor
    labels: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: Tensor) -> Rows:
        return Rows(self.features[mask], self.labels[mask], self.items[mask])


def distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of small whole numbers ``(N,)``, in order, and the place of each value among them ``(N,)``.

    As ``torch.unique``, which on the CPU starts threads that wait for one another on a busy machine.
    """
    found = values.bincount() > 0
    return found.nonzero().flatten(), (found.cumsum(0) - 1)[values]


@dataclass
class Extracted:
    """`rows` of each label, one a layer. `skipped` items were too short for the encoder; where memory would not have
    held all, of a layer's frames one in `thinned` is kept."""

    rows: dict[str, tuple[Rows, ...]] = field(default_factory=dict)
    skipped: int = 0
    thinned: int = 1


def extract(
    source: Source,
    split: Split,
    labels: Mapping[str, LabelSpec],
    *,
    pool: Pool = "mean",
    item_seed: Callable[[int], int | None] = lambda index: None,
    seed: int = 0,
    limit: int = LIMIT,
    advance: Callable[[], None] = lambda: None,
) -> Extracted:
    """Rows for every one of `labels`, in one pass over the split.

    Items are taken whole, or as crops where `item_seed` gives a seed for an index. An aligned label makes a row of each
    of its known values, and none in layers without time; a whole-item label makes one row an item, or with `pool`
    "none" one for every frame. `advance` is called after each item.
    """
    grids = _grids(labels)
    stores = {grid: [_Store(seed, limit // (len(grids) * len(source.layers))) for _ in source.layers] for grid in grids}
    result = Extracted()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(seed, "features"))  # for encoders whose evaluation draws from a Gaussian
        for indices, items in _batches(split, labels, item_seed, advance):
            maps = _maps(source, items)
            if maps is None:
                result.skipped += len(items)
                continue
            for grid, names in grids.items():
                for store, layer, values in zip(stores[grid], source.layers, maps, strict=True):
                    _add(store, layer, values, indices, items, {name: labels[name] for name in names}, pool)
    for grid, names in grids.items():
        for name in names:
            result.rows[name] = tuple(store.rows(name) for store in stores[grid])
        result.thinned = max(result.thinned, *(store.stride for store in stores[grid]))
    return result


def _grids(labels: Mapping[str, LabelSpec]) -> dict[tuple[int, float] | None, list[str]]:
    """Labels that share their rows: those of one aligned grid, and those of whole items."""
    grids: dict[tuple[int, float] | None, list[str]] = {}
    for name, spec in labels.items():
        grids.setdefault(None if spec.hop is None else (spec.hop, spec.offset), []).append(name)
    return grids


def _batches(
    split: Split,
    labels: Mapping[str, LabelSpec],
    item_seed: Callable[[int], int | None],
    advance: Callable[[], None],
) -> Iterator[tuple[list[int], list[Item]]]:
    """Items with a known label, neighbours of one shape together."""
    indices: list[int] = []
    items: list[Item] = []
    for index in range(len(split)):
        item = split[index, item_seed(index)]
        advance()
        if not any(_is_known(item, name) for name in labels):
            continue
        if items and (item.input.shape != items[0].input.shape or (len(items) + 1) * item.input.numel() > _TOGETHER):
            yield indices, items
            indices, items = [], []
        indices.append(index)
        items.append(item)
    if items:
        yield indices, items


def _is_known(item: Item, name: str) -> bool:
    if name not in item.labels:
        raise PluginError(f"item {item.id} lacks the label {name!r}, which the dataset describes")
    return bool((torch.as_tensor(item.labels[name]) >= 0).any())


def _maps(source: Source, items: Sequence[Item]) -> tuple[Tensor, ...] | None:
    """The maps of a batch, or None where the items are too short for the source."""
    x = torch.stack([item.input for item in items])
    try:
        maps = source.maps(x)
    except (InfomaxError, RuntimeError):
        fields = [axis.field for layer in source.layers for axis in layer.axes]
        if x.shape[-1] < max(fields, default=0):
            return None
        raise
    return None if any(values.numel() == 0 for values in maps) else maps


def _add(
    store: _Store,
    layer: Layer,
    values: Tensor,
    indices: Sequence[int],
    items: Sequence[Item],
    labels: Mapping[str, LabelSpec],
    pool: Pool,
) -> None:
    """The rows that one layer makes of a batch of items."""
    spec = next(iter(labels.values()))
    if spec.aligned and layer.time is None:
        return
    if not spec.aligned:
        values = pool_items(values, layer, pool)  # (B, N, D)
    for place, (index, item) in enumerate(zip(indices, items, strict=True)):
        known = {name: torch.as_tensor(item.labels[name]).long().reshape(-1) for name in labels}
        if not spec.aligned:
            rows = values[place]
            known = {name: label.expand(len(rows)) for name, label in known.items()}
        else:
            count = len(next(iter(known.values())))
            if any(len(label) != count for label in known.values()):
                raise PluginError(f"item {item.id}: labels of one grid differ in length: {', '.join(known)}")
            if count == 0:
                continue
            rows = to_labels(values[place : place + 1], layer, spec, count)
        store.add(index, rows, known)


def to_labels(values: Tensor, layer: Layer, label: LabelSpec, count: int) -> Tensor:
    """A map ``(1, C, *grid)`` to rows ``(count, C)`` on the grid of an aligned label; other axes than time are
    averaged over."""
    assert layer.time is not None
    frames = _over_time(values, layer.time)
    return pool_to_labels(frames, layer.axes[layer.time - 2], label, count)[0].T


def pool_items(values: Tensor, layer: Layer, pool: Pool) -> Tensor:
    """A map ``(B, C, *grid)`` to rows ``(B, N, C)``: the mean over all positions, the last frame, or every position.

    In time, other axes are averaged over before the last frame or every frame is taken.
    """
    if pool == "last" and layer.time is None:
        raise UsageError(f"--pool last: depth {layer.name} has no time axis", "use --pool mean")
    if pool == "mean" or layer.time is None:
        frames = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    else:
        frames = _over_time(values, layer.time)
    if pool == "last":
        frames = frames[..., -1:]
    elif pool == "mean":
        mean = frames.mean(-1, keepdim=True)
        frames = torch.cat([mean, frames.std(-1, correction=0, keepdim=True)], 1) if layer.deviation else mean
    return frames.transpose(1, 2)


def _over_time(values: Tensor, time: int) -> Tensor:
    """``(B, C, *grid)`` to ``(B, C, T)``."""
    others = [place for place in range(2, values.dim()) if place != time]
    return values.mean(others) if others else values


class _Store:
    """Rows of one layer as they come. Beyond `limit` bytes every second frame is dropped, and of all that follow as
    many; which ones is drawn for each item."""

    def __init__(self, seed: int, limit: int) -> None:
        self.seed, self.limit, self.stride, self.bytes = seed, limit, 1, 0
        self.features: list[Tensor] = []
        self.labels: list[dict[str, Tensor]] = []
        self.items: list[int] = []

    def add(self, item: int, rows: Tensor, labels: Mapping[str, Tensor]) -> None:
        kept = torch.stack([label >= 0 for label in labels.values()]).any(0)
        kept &= self._thin(item, len(kept))
        self._append(item, rows[kept.to(rows.device)].float().cpu(), {n: label[kept] for n, label in labels.items()})
        while self.bytes > self.limit and any(len(part) > 1 for part in self.features):
            self._halve()

    def rows(self, name: str) -> Rows:
        """The rows at which the label is known."""
        if not self.features:
            return Rows(torch.empty(0, 0), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))
        features = torch.cat(self.features)
        labels = torch.cat([label[name] for label in self.labels])
        items = torch.tensor(self.items).repeat_interleave(torch.tensor([len(part) for part in self.features]))
        known = labels >= 0
        return Rows(features, labels, items) if known.all() else Rows(features, labels, items).where(known)

    def _append(self, item: int, features: Tensor, labels: dict[str, Tensor]) -> None:
        self.features.append(features)
        self.labels.append(labels)
        self.items.append(item)
        self.bytes += features.nbytes

    def _thin(self, item: int, count: int) -> Tensor:
        """Every `stride`-th of an item's frames, from one on that is drawn for it."""
        if self.stride == 1:
            return torch.ones(count, dtype=torch.bool)
        return (torch.arange(count) + derive_seed(self.seed, "thin", item)) % self.stride == 0

    def _halve(self) -> None:
        self.stride *= 2
        features, labels, items = self.features, self.labels, self.items
        self.features, self.labels, self.items, self.bytes = [], [], [], 0
        for part, label, item in zip(features, labels, items, strict=True):
            first = derive_seed(self.seed, "half", self.stride, item) % 2
            self._append(item, part[first::2].clone(), {name: value[first::2] for name, value in label.items()})
