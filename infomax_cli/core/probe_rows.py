"""Which rows a probe learns from and which it is tested on: splits, crops, few labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from infomax_cli.core.api import DataError, LabelSpec, Split, derive_seed
from infomax_cli.core.features import Extracted, Layer, Pool, Source, extract
from infomax_cli.core.protocols import Protocol
from infomax_cli.core.rows import Rows, distinct, together
from infomax_cli.core.seeds import torch_generator
from infomax_cli.core.subject import Subject

Note = Callable[[str, str], None]  # a label, and what is to be known about its probe


@dataclass(frozen=True)
class Problem:
    """One layer's rows for one label."""

    layer: Layer
    train: Rows
    test: Rows


@dataclass
class Splits:
    """The splits that the labels need, opened; those that are missing or empty are noted."""

    subject: Subject
    protocol: Protocol
    labels: Sequence[str]
    note: Note
    opened: dict[str, Split] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label in self.labels:
            for name in self.pair(label):
                self._open(label, name)

    def pair(self, label: str) -> tuple[str, str]:
        """The splits that a label is learnt from and tested on: the dataset may name them in ``probe_splits``."""
        given = getattr(self.subject.dataset, "probe_splits", {})
        pairs: Mapping[str, tuple[str, str]] = given() if callable(given) else given
        return ("test", "test") if self.protocol.within_test is not None else pairs.get(label, ("train", "test"))

    def has(self, label: str) -> bool:
        return all(name in self.opened for name in self.pair(label))

    def _open(self, label: str, name: str) -> None:
        try:
            split = self.opened[name] if name in self.opened else self.subject.split(name)
        except DataError as error:
            if self.subject.data.sizes.get(name):
                raise
            self.note(label, error.message)
            return
        if len(split):
            self.opened[name] = split
        else:
            self.note(label, f"the split {name} is empty")


class SourceRows:
    """The rows that one source makes; every split is encoded once for all labels that need it."""

    def __init__(
        self,
        source: Source,
        splits: Splits,
        labels: Sequence[str],
        *,
        pool: Pool,
        seed: int,
        drawn: Sequence[Source] = (),
        stage: Callable[[str, int], None],
        advance: Callable[[], None],
    ) -> None:
        self.source, self.splits, self.protocol = source, splits, splits.protocol
        self.pool, self.seed, self.stage, self.advance = pool, seed, stage, advance
        self.specs: Mapping[str, LabelSpec] = {label: splits.subject.data.labels[label] for label in labels}
        self.whole: dict[str, Extracted] = {}
        for name in dict.fromkeys(name for label in labels for name in splits.pair(label)):
            if own := [label for label in labels if name in splits.pair(label) and not self.has_crops(label)]:
                self.whole[name] = self._extract(name, own)
        # what sources that draw from Gaussians make of the training items, to be learnt from beside the rest
        self.drawn = [
            self._extract(name, own, source=source, seed=derive_seed(seed, "draw", number))
            for number, source in enumerate(drawn)
            for name in dict.fromkeys(splits.pair(label)[0] for label in labels)
            for own in [[label for label in labels if splits.pair(label)[0] == name]]
        ]

    def has_crops(self, label: str) -> bool:
        return self.protocol.crops and not self.specs[label].aligned

    def problems(self, label: str) -> list[Problem]:
        """For each layer the rows to learn from and to be tested on."""
        train, test = self.splits.pair(label)
        share = self.protocol.within_test
        if self.has_crops(label):
            tests = self._extract(test, [label], lambda index: self._crop_seed("test", 0, index)).rows[label]
            pairs = list(zip(self.crops(label, 0), tests, strict=True))
        elif share is not None:
            pairs = [self._within(rows, share) for rows in self.whole[test].rows[label]]
        else:
            pairs = list(zip(self._learnt(label, train), self.whole[test].rows[label], strict=True))
        return [Problem(layer, *pair) for layer, pair in zip(self.source.layers, pairs, strict=True)]

    def _learnt(self, label: str, train: str) -> tuple[Rows, ...]:
        """For each layer what there is to learn from."""
        parts = [self.whole[train].rows[label], *(found.rows[label] for found in self.drawn if label in found.rows)]
        return parts[0] if len(parts) == 1 else tuple(together(layers) for layers in zip(*parts, strict=True))

    def crops(self, label: str, epoch: int) -> tuple[Rows, ...]:
        """A row of each training item's random crop, which the epoch draws."""
        train, _ = self.splits.pair(label)
        return self._extract(train, [label], lambda index: self._crop_seed("train", epoch, index)).rows[label]

    def _crop_seed(self, phase: str, epoch: int, index: int) -> int:
        return derive_seed("probe crop", self.seed, phase, epoch, index)

    def _within(self, rows: Rows, share: float) -> tuple[Rows, Rows]:
        order = torch.randperm(len(rows), generator=torch_generator("within test", self.seed))
        learnt = torch.zeros(len(rows), dtype=torch.bool)
        learnt[order[: int(share * len(rows))]] = True
        return rows.where(learnt), rows.where(~learnt)

    def _extract(
        self,
        name: str,
        labels: Sequence[str],
        item_seed: Callable[[int], int | None] = lambda index: None,
        *,
        source: Source | None = None,
        seed: int | None = None,
    ) -> Extracted:
        split = self.splits.opened[name]
        self.stage(f"encoding {name}", len(split))
        found = extract(
            source or self.source,
            split,
            {label: self.specs[label] for label in labels},
            pool=self.pool,
            item_seed=item_seed,
            seed=self.seed if seed is None else seed,
            advance=self.advance,
        )
        for label in labels:
            if found.corrupt:
                self.splits.note(label, f"{found.corrupt} items of {name} are corrupt, and left out")
            if found.skipped:
                self.splits.note(label, f"{found.skipped} items of {name} are too short for the encoder, and left out")
            if found.thinned > 1:
                self.splits.note(label, f"of {name} one frame in {found.thinned} is kept, for lack of room")
        return found


def few(rows: Rows, count: int, *, by_item: bool, seed: tuple[int | str, ...]) -> tuple[Rows, dict[int, int]]:
    """Rows of `count` units of each class, drawn by `seed`: items with all their rows, or single rows.

    Also how many there are of each class that has fewer; of those all are kept.
    """
    units = rows.items if by_item else torch.arange(len(rows))
    chosen = torch.zeros(int(units.max()) + 1, dtype=torch.bool)
    lacking = {}
    for value in distinct(rows.labels)[0].tolist():
        own, _ = distinct(units[rows.labels == value])
        chosen[own[torch.randperm(len(own), generator=torch_generator("few", *seed, value))[:count]]] = True
        if len(own) < count:
            lacking[value] = len(own)
    return rows.where(chosen[units]), lacking
