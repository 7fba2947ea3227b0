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
    CorruptItem,
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
from infomax_cli.core.rows import Rows, Store
from infomax_cli.core.scratch import scratch_room
from infomax_cli.recipe import SamplingOptions

Pool = Literal["mean", "last", "none", "flatten"]
MEMORY = 2**28  # bytes of features up to which one `extract` keeps them in memory; beyond it, in a file
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


@dataclass
class Extracted:
    """`rows` of each label, one a layer. `skipped` items were too short for the encoder, `corrupt` ones could not be
    read; where there was no room for all, of an item's frames one in `thinned` is kept."""

    rows: dict[str, tuple[Rows, ...]] = field(default_factory=dict)
    skipped: int = 0
    corrupt: int = 0
    thinned: int = 1


def extract(
    source: Source,
    split: Split,
    labels: Mapping[str, LabelSpec],
    *,
    pool: Pool = "mean",
    item_seed: Callable[[int], int | None] = lambda index: None,
    seed: int = 0,
    memory: int = MEMORY,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Extracted:
    """Rows for every one of `labels`, in one pass over the split.

    Items are taken whole, or as crops where `item_seed` gives a seed for an index. An aligned label makes a row of each
    of its known values, and none in layers without time; a whole-item label makes one row an item, or with `pool`
    "none" one for every frame, or position. `advance` is called after each item.

    Features are kept in fp16: up to `memory` bytes in memory, more in files that have no name. Beyond `limit` bytes (by
    default half of what the disk has to spare: another split will follow) frames are thinned out.
    """
    stores = {grid: _stores(source, labels[names[0]], seed) for grid, names in _grids(labels).items()}
    room = _Room([store for own in stores.values() for store, _ in own], memory, limit)
    result = Extracted()

    def leave_out(index: int) -> None:
        result.corrupt += 1

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(seed, "features"))  # for encoders whose evaluation draws from a Gaussian
        for indices, items in batches(split, labels, item_seed, advance, leave_out):
            maps = maps_of(source, items)
            if maps is None:
                result.skipped += len(items)
                continue
            for grid, names in _grids(labels).items():
                for store, places in stores[grid]:
                    layers = [(source.layers[place], maps[place]) for place in places]
                    _add(store, layers, indices, items, {name: labels[name] for name in names}, pool)
            room.keep()
    for grid, names in _grids(labels).items():
        for name in names:
            found = dict.fromkeys(range(len(source.layers)), _NOTHING)
            for store, places in stores[grid]:
                found.update(zip(places, store.rows(name), strict=True))
            result.rows[name] = tuple(found.values())
    result.thinned = max((store.stride for store in room.stores), default=1)
    return result


_NOTHING = Rows(torch.empty(0, 0), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))


def _stores(source: Source, label: LabelSpec, seed: int) -> list[tuple[Store, list[int]]]:
    """Where the rows of a grid go, and the layers that they are of: an aligned label has the same frames in all layers
    with time, a whole-item label frames of their own in each."""
    names = [f"depth {layer.name}" if layer.name.isdigit() else layer.name for layer in source.layers]
    places = range(len(names))
    together = [[i for i in places if source.layers[i].time is not None]] if label.aligned else [[i] for i in places]
    return [(Store(seed, [names[i] for i in own]), own) for own in together if own]


class _Room:
    """Keeps what `stores` hold together within memory and disk."""

    def __init__(self, stores: Sequence[Store], memory: int, limit: int | None) -> None:
        self.stores, self.memory, self.limit = stores, memory, limit

    def keep(self) -> None:
        if self.limit is None and self._bytes() > self.memory:
            self.limit = max(self.memory, scratch_room() // 2)
        while self.limit is not None and self._bytes() > self.limit and self._halve():
            pass
        if self._bytes() > self.memory:
            for store in self.stores:
                store.to_file()
            if scratch_room() < 0:  # others write, too
                self._halve()

    def _bytes(self) -> int:
        return sum(store.bytes for store in self.stores)

    def _halve(self) -> bool:
        """Thin all stores alike, so that depths are compared on the same frames."""
        return any([store.halve() for store in self.stores])  # noqa: C419 - all of them, not up to the first


def _grids(labels: Mapping[str, LabelSpec]) -> dict[tuple[int, float] | None, list[str]]:
    """Labels that share their rows: those of one aligned grid, and those of whole items."""
    grids: dict[tuple[int, float] | None, list[str]] = {}
    for name, spec in labels.items():
        grids.setdefault(None if spec.hop is None else (spec.hop, spec.offset), []).append(name)
    return grids


def batches(
    split: Split,
    labels: Mapping[str, LabelSpec],
    item_seed: Callable[[int], int | None],
    advance: Callable[[], None],
    leave_out: Callable[[int], None],
) -> Iterator[tuple[list[int], list[Item]]]:
    """Items with a known label, neighbours of one shape together; `leave_out` hears of those that cannot be read."""
    indices: list[int] = []
    items: list[Item] = []
    for index in range(len(split)):
        try:
            item = split[index, item_seed(index)]
        except CorruptItem:
            leave_out(index)
            continue
        finally:
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


def maps_of(source: Source, items: Sequence[Item]) -> tuple[Tensor, ...] | None:
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
    store: Store,
    layers: Sequence[tuple[Layer, Tensor]],
    indices: Sequence[int],
    items: Sequence[Item],
    labels: Mapping[str, LabelSpec],
    pool: Pool,
) -> None:
    """The rows that layers with the same frames make of their maps ``(B, C, *grid)`` of a batch of items."""
    spec = next(iter(labels.values()))
    if not spec.aligned:
        layers = [(layer, pool_items(values, layer, pool)) for layer, values in layers]  # (B, N, D)
    for place, (index, item) in enumerate(zip(indices, items, strict=True)):
        known = {name: torch.as_tensor(item.labels[name]).long().reshape(-1) for name in labels}
        if not spec.aligned:
            rows = [values[place] for _, values in layers]
            known = {name: label.expand(len(rows[0])) for name, label in known.items()}
        else:
            count = len(next(iter(known.values())))
            if any(len(label) != count for label in known.values()):
                raise PluginError(f"item {item.id}: labels of one grid differ in length: {', '.join(known)}")
            if count == 0:
                continue
            rows = [to_labels(values[place : place + 1], layer, spec, count) for layer, values in layers]
        store.add(index, rows, known)


def to_labels(values: Tensor, layer: Layer, label: LabelSpec, count: int) -> Tensor:
    """A map ``(1, C, *grid)`` to rows ``(count, C)`` on the grid of an aligned label; other axes than time are
    averaged over."""
    assert layer.time is not None
    frames = _over_time(values, layer.time)
    return pool_to_labels(frames, layer.axes[layer.time - 2], label, count)[0].T


def pool_items(values: Tensor, layer: Layer, pool: Pool) -> Tensor:
    """A map ``(B, C, *grid)`` to rows ``(B, N, C)``: the mean over all positions, the last frame, every position, or
    the whole map as one row.

    In time, other axes are averaged over before the last frame or every frame is taken.
    """
    if pool == "flatten":
        if layer.time is not None:
            raise UsageError(
                f"--pool flatten: depth {layer.name} has a time axis, and items differ in length", "use --pool mean"
            )
        return values.flatten(1).unsqueeze(1)
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
