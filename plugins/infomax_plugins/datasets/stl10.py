"""STL-10 (Coates et al. 2011): 96 by 96, mostly unlabelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._images import Corpus, ImageDataset, Ints, Source, check_classes, everything
from infomax_plugins.datasets._pictures import Joined, Mapped, Pictures

_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE
_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_DAMAGED = "Copy or download it again."


class STL10(ImageDataset):
    """Photographs of 96 by 96 with the label `class`, which most to train on lack (-1).

    A probe learns from the split `labelled`, all 5,000 labelled images, and is scored on the 8,000 of `test`, whatever
    was trained on. Images are read from the files as they are needed, never all at once.

    subset: what is trained on: the 5,000 `labelled` images; the 100,000 `unlabelled` ones (Löwe et al. 2019); or `both`
        (Bachman et al. 2019).
    size: pixels of what the encoder sees, 96 by default. Published: 64.
    resize: pixels to which images are scaled for evaluation before their middle is cut out. Published: 70 (Bachman et
        al. 2019), or none, so that the middle of the stored image is seen (Löwe et al. 2019).
    grey: one channel in place of red, green and blue.
    path: the folder of the .bin files; else, below the root, ``stl10_binary``, as torchvision has it.
    validation_fraction: of the images to train on, drawn by the seed from each class. Published: 0.
    """

    name = "stl10"
    published = "stl10"
    probe_splits: ClassVar[Mapping[str, tuple[str, str]]] = {"class": ("labelled", "test")}

    def __init__(
        self,
        *,
        subset: Literal["labelled", "unlabelled", "both"] = "both",
        size: int | None = None,
        resize: int | None = None,
        grey: bool = False,
        path: str | None = None,
        validation_fraction: float = 0.02,
        split_seed: int = 1984,
    ) -> None:
        super().__init__(
            size=size,
            resize=resize,
            grey=grey,
            path=path,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
        )
        self.subset = subset

    def read_corpus(self, root: Path) -> Corpus:
        files = ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"]
        if self.subset != "labelled":
            files.append("unlabeled_X.bin")
        folder = self.locate(root, ("stl10_binary", "stl10", "stl10_binary/stl10_binary"), files)
        labelled, test = _labelled(folder, "train"), _labelled(folder, "test")
        train = labelled if self.subset == "labelled" else _with_unlabelled(labelled, folder / "unlabeled_X.bin")
        places = everything(train)
        if self.subset == "unlabelled":
            places = places[len(labelled.labels) :]
        kept, held = self.set_aside_validation(train.labels[places])
        return Corpus(
            found_in=folder,
            channels=3,
            size=_SIDE,
            classes=_CLASSES,
            sources={"train": train, "test": test},
            splits={
                "train": ("train", places[kept]),
                "validation": ("train", places[held]),
                "test": ("test", everything(test)),
                "labelled": ("train", everything(labelled)),
            },
            why=self.why_no_validation(),
        )


def _labelled(folder: Path, name: str) -> Source:
    images, labels = folder / f"{name}_X.bin", folder / f"{name}_y.bin"
    count = _count(images)
    try:
        classes = np.fromfile(labels, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {labels}: {error}") from error
    if len(classes) != count:
        raise DataError(f"{images} holds {count:,} images, and {labels} {len(classes):,} classes", _DAMAGED)
    return Source(check_classes(classes.astype(np.int64), len(_CLASSES), labels, first=1), _opener(images, name, count))


def _with_unlabelled(labelled: Source, path: Path) -> Source:
    count = _count(path)
    unknown: Ints = np.full(count, -1)
    unlabelled = _opener(path, "unlabelled", count)
    return Source(np.concatenate([labelled.labels, unknown]), partial(_join, labelled.open, unlabelled))


def _join(first: Callable[[], Pictures], second: Callable[[], Pictures]) -> Pictures:
    return Joined([first(), second()])


def _opener(path: Path, kind: str, count: int) -> Callable[[], Pictures]:
    """Each channel lies column by column."""
    return partial(Mapped, kind, path, (count, 3, _SIDE, _SIDE), by_column=True)


def _count(path: Path) -> int:
    size = path.stat().st_size
    if size == 0 or size % _BYTES:
        raise DataError(
            f"{path} is damaged, or cut short: {size:,} bytes are no whole number of images, {_BYTES:,} bytes each",
            _DAMAGED,
        )
    return size // _BYTES
