"""Recordings as columns: 100,000 of them are a few arrays, which load at once, and which loader processes share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
_NO_TAGS: Mapping[str, str] = {}


class Recording(NamedTuple):
    """A file that was found, and what it is known by: `tags` are its whole-item labels, as text."""

    id: str
    path: str
    tags: Mapping[str, str] = _NO_TAGS
    line: int = 0  # of the manifest; 0 where none lists it
    frames: int = 0  # at the dataset's rate; 0 until its header has been read
    rate: int = 0  # the file's own
    aligned: str = ""  # where the manifest says that its alignment lies
    size: int = 0  # of the file, in bytes, when its header was read
    time: int = 0  # when it had last changed then, in nanoseconds

    def blame(self, where: str, problem: str) -> str:
        """A problem of this file, for a message: with its line in the manifest `where`."""
        return f"{where}, line {self.line}: {problem}" if self.line else problem


class Texts:
    """Texts without the character 0, such as paths, as the file system's bytes: each ends in a 0."""

    def __init__(self, packed: Bytes) -> None:
        self.packed = packed
        self._ends = np.flatnonzero(packed == 0)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        return cls(np.frombuffer(os.fsencode("".join(f"{text}\0" for text in texts)), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) + 1 if index else 0
        return os.fsdecode(self.packed[start : self._ends[index]].tobytes())

    def to_list(self) -> list[str]:
        return os.fsdecode(self.packed.tobytes()).split("\0")[:-1]


@dataclass(frozen=True)
class Tags:
    """A whole-item label: its `values`, and which of them each recording has, -1 where it has none."""

    values: Sequence[str]
    codes: Ints

    @classmethod
    def of(cls, name: str, recordings: Sequence[Recording]) -> Tags:
        numbers: dict[str, int] = {}
        codes = [
            -1 if (value := recording.tags.get(name)) is None else numbers.setdefault(value, len(numbers))
            for recording in recordings
        ]
        return cls(tuple(numbers), np.array(codes, dtype=np.int64))


@dataclass(frozen=True)
class Columns:
    """A recording is a row."""

    ids: Texts
    paths: Texts
    aligned: Texts
    tags: Mapping[str, Tags]
    numbers: Ints
    """``(N, 5)``: line, frames, rate, size and time."""

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> Columns:
        names = sorted({name for recording in recordings for name in recording.tags})
        numbers = [(r.line, r.frames, r.rate, r.size, r.time) for r in recordings]
        return cls(
            ids=Texts.of(recording.id for recording in recordings),
            paths=Texts.of(recording.path for recording in recordings),
            aligned=Texts.of(recording.aligned for recording in recordings),
            tags={name: Tags.of(name, recordings) for name in names},
            numbers=np.array(numbers, dtype=np.int64).reshape(-1, 5),
        )

    def row(self, place: int) -> Recording:
        tags = {name: tag.values[code] for name, tag in self.tags.items() if (code := int(tag.codes[place])) >= 0}
        line, frames, rate, size, time = self.numbers[place].tolist()
        return Recording(self.ids[place], self.paths[place], tags, line, frames, rate, self.aligned[place], size, time)


class Recordings(Sequence[Recording]):
    """Some of the recordings of a corpus, in order; each is put together when it is asked for."""

    def __init__(self, columns: Columns, places: Ints) -> None:
        self.columns, self.places = columns, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Recording: ...

    @overload
    def __getitem__(self, index: slice) -> Recordings: ...

    def __getitem__(self, index: int | slice) -> Recording | Recordings:
        if isinstance(index, slice):
            return Recordings(self.columns, self.places[index])
        return self.columns.row(int(self.places[index]))

    def __iter__(self) -> Iterator[Recording]:
        return map(self.columns.row, self.places.tolist())

    @property
    def frames(self) -> Ints:
        """Of each, at the dataset's rate."""
        frames: Ints = self.columns.numbers[self.places, 1]
        return frames

    @property
    def rates(self) -> Ints:
        """Of each file, its own."""
        rates: Ints = self.columns.numbers[self.places, 2]
        return rates

    def values(self, label: str) -> set[str]:
        """The values of a label that occur."""
        if (tags := self.columns.tags.get(label)) is None:
            return set()
        codes = np.unique(tags.codes[self.places])
        return {tags.values[code] for code in codes.tolist() if code >= 0}

    def classes(self, label: str, names: Sequence[str]) -> Ints:
        """The place of each one's value among `names`, -1 where it has none."""
        if (tags := self.columns.tags.get(label)) is None:
            return np.full(len(self), -1)
        number = {name: place for place, name in enumerate(names)}
        classes = np.array([*(number.get(value, -1) for value in tags.values), -1])  # the last is that of code -1
        return classes[tags.codes[self.places]]


def in_columns(splits: Mapping[str, Sequence[Recording]]) -> dict[str, Recordings]:
    """Splits, each of which shares its columns with the others."""
    columns = Columns.of([recording for split in splits.values() for recording in split])
    ends = np.cumsum([len(split) for split in splits.values()])
    return {
        name: Recordings(columns, np.arange(end - len(split), end))
        for (name, split), end in zip(splits.items(), ends.tolist(), strict=True)
    }
