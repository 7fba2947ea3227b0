"""What every corpus of recordings has in common: crops, chunks, labels, and what is done about corrupt files.

`librispeech` and `folder` add only how their recordings and labels are found.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from infomax_cli.core.api import (
    DataError,
    DataSpec,
    Item,
    LabelSpec,
    SplitFacts,
    UsageError,
    numpy_generator,
    read_audio,
)
from infomax_plugins.datasets._alignment import HOP, WINDOW, Alignment, Labels, cut, label_count
from infomax_plugins.datasets._columns import Ints, Recording, Recordings
from infomax_plugins.datasets._recordings import hold_out, natural_order
from infomax_plugins.datasets._stand_ins import StandIns

Mode = Literal["random", "first", "chunks"]

SEEN = 0.1  # share of the recordings of training speakers held out for probing speakers
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class Corpus:
    """The recordings of each split; where one is empty, `why` says so. `labels` are the names of whole-item labels.

    `found_in` is the folder or manifest of it all; `left_out` says what was found and cannot be used, and why.
    """

    found_in: Path
    splits: Mapping[str, Recordings]
    why: Mapping[str, str]
    labels: Sequence[str]
    aligned: Mapping[str, Alignment] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def classes(self, label: str) -> tuple[str, ...]:
        """The values of a whole-item label in all splits, so that a class has the same number in each."""
        found = {value for split in self.splits.values() for value in split.values(label)}
        return tuple(sorted(found, key=natural_order))


@dataclass(frozen=True)
class Crops:
    """What a training item is: a random crop of a recording, its first, or one of its consecutive chunks, at `rate`."""

    crop: int | None
    mode: Mode
    rate: int

    @property
    def step(self) -> int:
        """From chunk to chunk: the crop, rounded up to the grid of the labels."""
        assert self.crop is not None
        return -(-self.crop // HOP) * HOP

    def items(self, frames: Ints) -> Ints:
        """How many items each recording makes of so many `frames`; one shorter than the crop still makes one."""
        if self.mode != "chunks":
            return np.ones_like(frames)
        assert self.crop is not None
        items: Ints = 1 + np.maximum(0, frames - self.crop) // self.step
        return items

    def lengths(self, frames: Ints) -> Ints:
        """The samples that each item has of its recording, padding left out."""
        if self.mode != "chunks":
            return frames
        assert self.crop is not None
        counts = self.items(frames)
        chunks = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        lengths: Ints = np.minimum(self.crop, np.repeat(frames, counts) - chunks * self.step)
        return lengths

    def start(self, frames: int, *seed: int) -> int:
        """Where a crop starts: a random one at any multiple of 160 from which it fits."""
        if self.crop is None or frames <= self.crop or self.mode == "first":
            return 0
        return HOP * int(numpy_generator("crop", *seed).integers((frames - self.crop) // HOP + 1))


class SpeechDataset(ABC):
    """A `Dataset` of recordings. What it finds under a root is kept, so that it is looked for once."""

    name: str

    def __init__(
        self,
        *,
        crop: int | None,
        mode: Mode,
        rate: int,
        test_fraction: float,
        validation_fraction: float,
        split_seed: int,
        max_corrupt: float,
    ) -> None:
        if crop is not None and crop < 1:
            raise UsageError(f"{self.name}: crop is {crop}, and must be a number of samples, or null for whole files")
        if crop is None and mode == "chunks":
            raise UsageError(f"{self.name}: mode chunks needs a crop")
        fractions = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
        for option, value in {**fractions, "max_corrupt": max_corrupt}.items():
            if not 0 <= value < 1:
                raise UsageError(f"{self.name}: {option} is {value}, and must be at least 0 and below 1")
        if rate < 1:
            raise UsageError(f"{self.name}: rate is {rate}, and must be a number of samples a second")
        self.crops = Crops(crop, mode, rate)
        self.test_fraction = test_fraction
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.max_corrupt = max_corrupt
        self._found: dict[Path, Corpus] = {}

    @abstractmethod
    def read_corpus(self, root: Path) -> Corpus:
        """Find the recordings under `root`, from listings and headers alone."""

    def describe(self, root: Path) -> DataSpec:
        """See `Dataset.describe`. Reads listings, headers and label files; decodes nothing."""
        corpus = self._corpus(root)
        self._refuse_empty(corpus, "train")
        return DataSpec(
            channels=1,
            grid=(self.crops.crop or self._longest(corpus),),
            axes=("time",),
            rate=self.crops.rate,
            labels=self._label_specs(corpus),
            sizes={name: int(self.crops.items(found.frames).sum()) for name, found in corpus.splits.items() if found},
        )

    def split(self, root: Path, name: str) -> SpeechSplit:
        """See `Dataset.split`. Raises `DataError` where there is no such split, or where it is empty."""
        corpus = self._corpus(root)
        if name not in corpus.splits:
            filled = ", ".join(name for name, found in corpus.splits.items() if found)
            raise DataError(f"{self.name} has no split {name!r}", f"It has {filled}.")
        self._refuse_empty(corpus, name)
        if name == "train":
            self._tell_short(corpus.splits[name])
        return SpeechSplit(
            corpus.splits[name],
            self.crops,
            longest=self._longest(corpus),
            classes={label: corpus.classes(label) for label in corpus.labels},
            aligned={label: alignment.values for label, alignment in corpus.aligned.items()},
            max_corrupt=self.max_corrupt,
        )

    def found_in(self, root: Path) -> Path:
        """See `Dataset`."""
        return self._corpus(root).found_in

    def left_out(self, root: Path) -> Mapping[str, str]:
        """See `Dataset`."""
        return self._corpus(root).left_out

    def _corpus(self, root: Path) -> Corpus:
        root = root.expanduser().absolute()
        if root not in self._found:
            with collector_paused():
                self._found[root] = self.read_corpus(root)
        return self._found[root]

    def _refuse_empty(self, corpus: Corpus, name: str) -> None:
        if not corpus.splits[name]:
            raise DataError(f"the split {name} of {self.name} is empty: {corpus.why.get(name, 'nothing was found')}")

    def _tell_short(self, recordings: Recordings) -> None:
        """Zeros that are learned from should not go unnoticed."""
        crop = self.crops.crop or 0
        short = int((recordings.frames < crop).sum())
        if short:
            _log.warning(
                "%d of %d training recordings are shorter than the crop (%d samples, %.2f s): zeros pad them; "
                "data.crop= chooses another",
                short, len(recordings), crop, crop / self.crops.rate,
            )  # fmt: skip

    def _label_specs(self, corpus: Corpus) -> dict[str, LabelSpec]:
        specs: dict[str, LabelSpec] = {}
        for label in corpus.labels:
            values = corpus.classes(label)
            specs[label] = LabelSpec(classes=len(values), names=values)
        for label, alignment in corpus.aligned.items():
            specs[label] = LabelSpec(alignment.classes, hop=HOP, offset=WINDOW / 2, names=alignment.names)
        return specs

    def _longest(self, corpus: Corpus) -> int:
        return max(int(found.frames.max(initial=0)) for found in corpus.splits.values())

    def set_aside_validation(self, splits: dict[str, list[Recording]], why: dict[str, str]) -> None:
        """Move a seeded part of the training recordings to the split validation."""
        if self.validation_fraction == 0:
            why["validation"] = "validation_fraction is 0"
        else:
            why["validation"] = "there are too few training recordings to set one aside"
        splits["train"], splits["validation"] = hold_out(
            splits["train"], self.validation_fraction, self.split_seed, "validation"
        )


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """While 100,000 recordings are made, none of which is garbage: looking for it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class SpeechSplit:
    """One split. ``split[index, seed]`` is a training item, ``split[index, None]`` the whole recording, or its chunk.

    A recording shorter than the crop is padded with zeros at its end, its aligned labels with -1; without a crop all
    are padded to the longest of the corpus.

    What becomes of a recording that turns out to be corrupt when it is decoded: see `StandIns`.
    """

    def __init__(
        self,
        recordings: Recordings,
        crops: Crops,
        *,
        longest: int,
        classes: Mapping[str, Sequence[str]],
        aligned: Mapping[str, Mapping[str, Labels]],
        max_corrupt: float,
    ) -> None:
        self._recordings = recordings
        self._crops = crops
        self._longest = longest
        self._classes = {label: recordings.classes(label, names) for label, names in classes.items()}
        here = {recording.id for recording in recordings} if aligned else ()
        self._aligned = {label: {i: v for i, v in values.items() if i in here} for label, values in aligned.items()}
        # the recording of item i is the first whose items end beyond i
        self._counts = crops.items(recordings.frames)
        self._ends = np.cumsum(self._counts)
        self._stand_ins = StandIns("recordings", len(self), len(recordings), max_corrupt)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, seed = range(len(self))[key[0]], key[1]
        return self._stand_ins.take(index, seed, lambda place: self._read(place, seed), self._place)

    def item_labels(self, name: str) -> list[int]:
        """See `Split.item_labels`. Raises `DataError` where there is no such whole-item label."""
        if name not in self._classes:
            raise DataError(f"there is no whole-item label {name!r}; there are: {', '.join(self._classes) or 'none'}")
        values: list[int] = np.repeat(self._classes[name], self._counts).tolist()
        return values

    def facts(self) -> SplitFacts:
        """See `Split`."""
        counts = {}
        for label, values in self._aligned.items():
            known = [values[r.id][: label_count(r.frames)] for r in self._recordings if r.id in values]
            flat = np.concatenate(known) if known else np.empty(0, dtype=np.int16)
            counts[label] = np.bincount(flat[flat >= 0]).tolist()
        rates, files = np.unique(self._recordings.rates, return_counts=True)
        lengths: list[int] = self._crops.lengths(self._recordings.frames).tolist()
        return SplitFacts(lengths, dict(zip(rates.tolist(), files.tolist(), strict=True)), counts)

    def _place(self, index: int) -> int:
        """Which of the recordings an item is of."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def _read(self, index: int, seed: int | None) -> Item:
        which = self._place(index)
        recording, chunk = self._recordings[which], index - int(self._ends[which] - self._counts[which])
        crops = self._crops
        if crops.mode == "chunks":
            start, size = chunk * crops.step, crops.crop or 0
        elif seed is None:
            start, size = 0, recording.frames
        else:
            start, size = crops.start(recording.frames, index, seed), crops.crop or self._longest
        audio = read_audio(Path(recording.path), start, size, crops.rate)
        audio = torch.nn.functional.pad(audio, (0, size - audio.shape[-1]))
        labels: dict[str, int | Tensor] = {name: int(of[which]) for name, of in self._classes.items()}
        for name, values in self._aligned.items():
            labels[name] = cut(values.get(recording.id), recording.frames, start, size)
        return Item(audio, labels, f"{recording.id}#{chunk}" if crops.mode == "chunks" else recording.id)
