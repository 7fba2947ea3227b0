"""Rows that a classifier learns from: features in memory or in a file, read a part at a time, with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infomax_cli.core.seeds import derive_seed
from infomax_cli.core.table import Table, TableWriter, rows_of

LARGE = 2**28  # values, 1 GiB in fp32: features of more are never in memory all at once
_PART = 2**22  # values of a part, 16 MiB in fp32
_CHUNK, _CHUNKS = 2**17, 64  # values that lie together in a shuffled stream, and how many of those are mixed


@dataclass(frozen=True)
class Rows:
    """What one layer knows about one label: features ``(N, D)``, in memory or in a file, `labels` ``(N,)``, all known,
    and `items` ``(N,)``, the item that each row comes from; all on the CPU."""

    kept: Tensor | Table
    labels: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dims(self) -> int:
        return self.kept.shape[1]

    @property
    def values(self) -> int:
        return len(self) * self.dims

    @property
    def features(self) -> Tensor:
        """All of them at once ``(N, D)``: only for sets that are known to be small."""
        return self.kept if isinstance(self.kept, Tensor) else self.kept.slice(0, len(self))

    def take(self, places: Tensor) -> Tensor:
        """The features of those rows."""
        return self.kept[places] if isinstance(self.kept, Tensor) else self.kept.take(places)

    def parts(self) -> Iterator[Tensor]:
        """The features in their order, a part at a time."""
        size = rows_of(_PART, self.dims)
        yield from self.kept.split(size) if isinstance(self.kept, Tensor) else self.kept.parts(size)  # type: ignore[no-untyped-call]

    def where(self, mask: Tensor) -> Rows:
        if mask.all():
            return self
        kept = self.kept[mask] if isinstance(self.kept, Tensor) else self.kept.at(mask.nonzero().flatten())
        return Rows(kept, self.labels[mask], self.items[mask])

    def reader(self, device: torch.device, large: int = LARGE) -> Callable[[Tensor], Tensor]:
        """What reads the features of given rows, on the device: from there, where all fit."""
        if self.values > large:
            return lambda places: self.take(places).to(device)
        features = self.features.to(device)
        return lambda places: features[places]

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows once, in random order: places and features, many at a time. Chunks of neighbours, which are read in
        one go, are drawn at random; the rows of some dozens of chunks are mixed."""
        chunks = torch.arange(len(self)).split(rows_of(_CHUNK, self.dims))  # type: ignore[no-untyped-call]
        order = torch.randperm(len(chunks), generator=generator)
        for drawn in order.split(_CHUNKS):  # type: ignore[no-untyped-call]
            places = torch.cat([chunks[number] for number in drawn.tolist()])
            mixed = torch.randperm(len(places), generator=generator)
            yield places[mixed], self.take(places)[mixed]


def together(parts: Sequence[Rows]) -> Rows:
    """The rows of several small sets, one after the other, in memory; an item keeps its number in all of them."""
    return Rows(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.items for part in parts]),
    )


def distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of small whole numbers ``(N,)``, in order, and the place of each value among them ``(N,)``.

    As ``torch.unique``, which on the CPU starts threads that wait for one another on a busy machine.
    """
    found = values.bincount() > 0
    return found.nonzero().flatten(), (found.cumsum(0) - 1)[values]


class Store:
    """Rows as they come, of layers that have the same frames, with their labels.

    It can be thinned: then every second frame is dropped, and of all that follow as many; which ones is drawn for each
    item.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.seed, self.stride = seed, 1
        self.tables = [TableWriter(name) for name in names]
        self.items: list[int] = []
        self.labels: list[dict[str, Tensor]] = []

    @property
    def bytes(self) -> int:
        return sum(table.bytes for table in self.tables)

    def add(self, item: int, layers: Sequence[Tensor], labels: Mapping[str, Tensor]) -> None:
        """Rows ``(n, D)`` of each layer with labels ``(n,)`` each; those are kept at which some label is known."""
        kept = torch.stack([label >= 0 for label in labels.values()]).any(0)
        kept &= self._thin(item, len(kept))
        self.items.append(item)
        self.labels.append({name: label[kept] for name, label in labels.items()})
        for table, rows in zip(self.tables, layers, strict=True):
            table.add(rows[kept.to(rows.device)])

    def to_file(self) -> None:
        for table in self.tables:
            table.to_file()

    def halve(self) -> bool:
        """Thin what is there; False where no item has frames to spare."""
        counts = [self._count(labels) for labels in self.labels]
        if max(counts, default=0) < 2:
            return False
        self.stride *= 2
        masks = []
        for item, count, labels in zip(self.items, counts, self.labels, strict=True):
            mask = (torch.arange(count) + derive_seed(self.seed, "half", self.stride, item)) % 2 == 0
            labels.update({name: label[mask] for name, label in labels.items()})
            masks.append(mask)
        for table in self.tables:
            table.keep(torch.cat(masks))
        return True

    def rows(self, name: str) -> list[Rows]:
        """Of each layer the rows at which the label is known; layers share the tensors of labels and items."""
        tables = [table.finish() for table in self.tables]
        nothing = torch.empty(0, dtype=torch.long)
        labels = torch.cat([nothing, *(labels[name] for labels in self.labels)])
        counts = torch.tensor([self._count(labels) for labels in self.labels], dtype=torch.long)
        items = torch.tensor(self.items, dtype=torch.long).repeat_interleave(counts)
        known = labels >= 0
        if not known.all():
            places = known.nonzero().flatten()
            labels, items, tables = labels[places], items[places], [table.at(places) for table in tables]
        return [Rows(table, labels, items) for table in tables]

    def _thin(self, item: int, count: int) -> Tensor:
        """Every `stride`-th of an item's frames, from one on that is drawn for it."""
        if self.stride == 1:
            return torch.ones(count, dtype=torch.bool)
        return (torch.arange(count) + derive_seed(self.seed, "thin", item)) % self.stride == 0

    @staticmethod
    def _count(labels: Mapping[str, Tensor]) -> int:
        return len(next(iter(labels.values())))
