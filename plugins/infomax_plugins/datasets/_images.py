"""What image datasets have in common: how splits hand images out, and what a dataset tells of them.

A dataset adds how its files are found and read (`ImageDataset.read_corpus`).
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infomax_cli.core.api import (
    CATALOGUE,
    DataError,
    DataSpec,
    Item,
    LabelSpec,
    Subset,
    UsageError,
    derive_seed,
    fit_image,
    grey_image,
    obtain,
)
from infomax_plugins.datasets._pictures import Pictures
from infomax_plugins.datasets._stand_ins import StandIns

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

LABEL = "class"
NOTHING_NEEDED = "`--data digits` needs none and runs right now."


# --- what a dataset finds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Images as they lie in files: the class of each, -1 where it is unknown, and how they are opened."""

    labels: Ints
    open: Callable[[], Pictures]


@dataclass(frozen=True)
class Corpus:
    """What is there, before any image is read. `found_in` is the folder of it all, if it lies in one.

    ``splits[name]`` is the name of a source, and which of its images make the split; ``why[name]`` says why it may be
    empty. Without `classes` there is no label.
    """

    found_in: Path | None
    channels: int
    size: int
    classes: tuple[str, ...]
    sources: Mapping[str, Source]
    splits: Mapping[str, tuple[str, Ints]]
    why: Mapping[str, str]


def everything(source: Source) -> Ints:
    return np.arange(len(source.labels))


def keys_of(names: Iterable[str]) -> Keys:
    """A number for each name, which stays the same whatever other names there are."""
    return np.array([zlib.crc32(os.fsencode(name)) for name in names], dtype=np.uint64)


def hold_out(keys: Keys, labels: Ints, fraction: float, *seed: int | str) -> tuple[Ints, Ints]:
    """(kept, held out): places. Of each class this fraction is held out: none of one image, at least one of two or
    more, never all.

    They are ranked by a hash of seed and key, so that an image more or less hardly changes the others' fate.
    """
    ranks = _hashed(keys, derive_seed(*seed))
    order = np.lexsort((ranks, labels))  # class by class
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    wanted = (
        np.where(counts < 2, 0, np.clip(np.round(fraction * counts), 1, counts - 1)) if fraction > 0 else 0 * counts
    )
    place_in_class = np.arange(len(keys)) - np.repeat(first, counts)
    is_held = np.zeros(len(keys), dtype=bool)
    is_held[order[place_in_class < np.repeat(wanted, counts)]] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _hashed(keys: Keys, seed: int) -> Keys:
    """The finalizer of SplitMix64 (Steele et al. 2014)."""
    mixed = keys + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


# --- splits ----------------------------------------------------------------------------------------------------------


class ImageSplit:
    """One split. ``split[index, None]`` is an image as evaluation sees it, of exactly `grid`: its middle, after its
    shorter side was brought to `shorter` pixels, where that is given. ``split[index, seed]`` is the whole stored image,
    of whatever size, for views to crop. With `grey` it has one channel.

    What becomes of an image that cannot be decoded: see `StandIns`.
    """

    def __init__(
        self,
        pictures: Pictures,
        places: Ints,
        labels: Ints | None,
        *,
        grid: tuple[int, int],
        shorter: int | None,
        grey: bool,
        max_corrupt: float,
    ) -> None:
        self._pictures, self._places, self._labels = pictures, places, labels
        self._grid, self._shorter, self._grey = grid, shorter, grey
        self._stand_ins = StandIns("images", len(places), len(places), max_corrupt)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, seed = range(len(self))[key[0]], key[1]
        whole = seed is not None
        return self._stand_ins.take(index, seed, lambda place: self._read(place, whole=whole), lambda place: place)

    def item_labels(self, name: str) -> list[int]:
        """See `Split.item_labels`. Raises `DataError` where there is no such label."""
        if name != LABEL or self._labels is None:
            raise DataError(
                f"there is no whole-item label {name!r}; there are: {'none' if self._labels is None else LABEL}"
            )
        values: list[int] = self._labels.tolist()
        return values

    def _read(self, index: int, *, whole: bool) -> Item:
        place = int(self._places[index])
        image = grey_image(self._pictures[place]) if self._grey else self._pictures[place]
        if not whole:
            image = fit_image(image, self._grid, self._shorter)
        labels = {} if self._labels is None else {LABEL: int(self._labels[index])}
        return Item(image, labels, self._pictures.name(place))


# --- datasets --------------------------------------------------------------------------------------------------------


class ImageDataset(ABC):
    """A `Dataset` of images. What it finds under a root is kept, so that it is looked for once."""

    name: str
    published: str = ""  # its entry in the catalogue of what can be downloaded

    def __init__(
        self,
        *,
        size: int | None,
        resize: int | None,
        path: str | None,
        validation_fraction: float,
        split_seed: int,
        grey: bool = False,
        max_corrupt: float = 0.0,
    ) -> None:
        for option, value in {"size": size, "resize": resize}.items():
            if value is not None and value < 1:
                raise UsageError(f"{self.name}: {option} is {value}, and must be a number of pixels")
        if size is not None and resize is not None and resize < size:
            raise UsageError(
                f"{self.name}: resize is {resize}, less than size, {size}, which is cut out of it",
                "data.resize= is the shorter side before the centre is cut out; leave it out to cut without scaling",
            )
        self.check_fraction("validation_fraction", validation_fraction)
        self.check_fraction("max_corrupt", max_corrupt)
        self.size, self.resize, self.path = size, resize, path
        self.validation_fraction, self.split_seed = validation_fraction, split_seed
        self.grey, self.max_corrupt = grey, max_corrupt
        self._found: dict[Path, Corpus] = {}
        self._opened: dict[tuple[Path, str], Pictures] = {}

    @abstractmethod
    def read_corpus(self, root: Path) -> Corpus:
        """Find the images under `root`, from listings, headers and files of labels."""

    @property
    def downloads(self) -> dict[str, Subset] | None:
        """See `Dataset`."""
        return dict(CATALOGUE[self.published].subsets) if self.published else None

    def download(self, root: Path) -> None:
        entry = CATALOGUE[self.published]
        obtain(entry.name, entry.subsets, root)

    def describe(self, root: Path) -> DataSpec:
        """See `Dataset.describe`. Decodes no image."""
        corpus = self._corpus(root)
        self._refuse_empty(corpus, "train")
        specs = {LABEL: LabelSpec(len(corpus.classes), names=corpus.classes)} if corpus.classes else {}
        return DataSpec(
            channels=1 if self.grey else corpus.channels,
            grid=self._grid(corpus),
            axes=("height", "width"),
            rate=None,
            labels=specs,
            sizes={name: len(places) for name, (_, places) in corpus.splits.items() if len(places)},
        )

    def found_in(self, root: Path) -> Path | None:
        """See `Dataset`."""
        return self._corpus(root).found_in

    def split(self, root: Path, name: str) -> ImageSplit:
        """See `Dataset.split`. Raises `DataError` where there is no such split, or where it is empty."""
        corpus = self._corpus(root)
        if name not in corpus.splits:
            filled = ", ".join(name for name, (_, places) in corpus.splits.items() if len(places))
            raise DataError(f"{self.name} has no split {name!r}", f"It has {filled}.")
        self._refuse_empty(corpus, name)
        key, places = corpus.splits[name]
        opened = root.expanduser().absolute(), key
        if opened not in self._opened:
            self._opened[opened] = corpus.sources[key].open()
        return ImageSplit(
            self._opened[opened],
            places,
            corpus.sources[key].labels[places] if corpus.classes else None,
            grid=self._grid(corpus),
            shorter=self.resize,
            grey=self.grey,
            max_corrupt=self.max_corrupt,
        )

    def published_splits(
        self, folder: Path, train: Source, test: Source, *, classes: Sequence[str], channels: int, size: int
    ) -> Corpus:
        """A corpus in a `folder` that comes as `train` and `test`: validation is held out from train."""
        kept, held = self.set_aside_validation(train.labels)
        return Corpus(
            folder,
            channels,
            size,
            tuple(classes),
            {"train": train, "test": test},
            {"train": ("train", kept), "validation": ("train", held), "test": ("test", everything(test))},
            self.why_no_validation(),
        )

    def set_aside_validation(self, labels: Ints, keys: Keys | None = None) -> tuple[Ints, Ints]:
        """(training, validation): places of the training images, drawn by the seed from each class."""
        keys = np.arange(len(labels), dtype=np.uint64) if keys is None else keys
        return hold_out(keys, labels, self.validation_fraction, self.split_seed, "validation")

    def why_no_validation(self) -> dict[str, str]:
        few = "there are too few training images to set one aside"
        return {"validation": few if self.validation_fraction else "validation_fraction is 0"}

    def check_fraction(self, option: str, value: float) -> None:
        if not 0 <= value < 1:
            raise UsageError(f"{self.name}: {option} is {value}, and must be at least 0 and below 1")

    def locate(self, root: Path, folders: Iterable[str], files: Sequence[str]) -> Path:
        """The folder of `path`, or else the first of `folders` below the root, that holds all of `files`.

        Of a file several names may do, set apart by "|". Raises `DataError` saying how to get what is missing.
        """
        if self.path is not None:
            given = Path(self.path).expanduser()
            tried = [root / given, given.absolute()]
        else:
            tried = [root / folder for folder in folders]
        missing = {folder: _missing(folder, files) for folder in dict.fromkeys(tried)}
        for folder, lacking in missing.items():
            if not lacking:
                return folder
        for folder, lacking in missing.items():
            if len(lacking) < len(files):
                raise DataError(f"{self.name}: there is no {lacking[0]} in {folder}", self.how_to_get(root))
        raise DataError(f"there is no {self.name} at {' or '.join(map(str, missing))}", self.how_to_get(root))

    def how_to_get(self, root: Path) -> str:
        entry = CATALOGUE[self.published]
        return (
            f"{entry.how_to_get(root)} from {entry.page}; data.path= names the folder of files that are elsewhere; "
            f"{NOTHING_NEEDED}"
        )

    def _corpus(self, root: Path) -> Corpus:
        root = root.expanduser().absolute()
        if root not in self._found:
            self._found[root] = self.read_corpus(root)
        return self._found[root]

    def _grid(self, corpus: Corpus) -> tuple[int, int]:
        size = self.size or corpus.size
        return (size, size)

    def _refuse_empty(self, corpus: Corpus, name: str) -> None:
        if not len(corpus.splits[name][1]):
            raise DataError(f"the split {name} of {self.name} is empty: {corpus.why.get(name, 'nothing was found')}")


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of `files` of which no name is there; the first name of each."""
    return [names.split("|")[0] for names in files if not any((folder / name).is_file() for name in names.split("|"))]


def check_classes(labels: Ints, classes: int, where: object, *, first: int = 0) -> Ints:
    """Classes ``first .. first + classes - 1`` as ``0 .. classes - 1``. Raises `DataError` on others."""
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (first, first)
    if low < first or high >= first + classes:
        wrong = low if low < first else high
        raise DataError(f"{where} has the class {wrong}; classes are {first} to {first + classes - 1}")
    return labels.astype(np.int64) - first
