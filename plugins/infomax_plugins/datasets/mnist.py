"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): grey images of 28 by 28, ten classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._idx import open_pictures, read_array, read_shape
from infomax_plugins.datasets._images import Corpus, ImageDataset, Source, check_classes

_STEMS = {"train": "train", "test": "t10k"}


class MNIST(ImageDataset):
    """Handwritten digits, one channel: 60,000 to train on, 10,000 to test on; their label is `class`.

    size: pixels of what the encoder sees; 28, as they are stored, by default.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    path: the folder of the four idx files, gzipped or not; else, below the root, ``MNIST/raw``, as torchvision has it.
    validation_fraction: of the training images, drawn by the seed from each class.
    """

    name = "mnist"
    published = "mnist"
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "mnist")
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def __init__(
        self,
        *,
        size: int | None = None,
        resize: int | None = None,
        path: str | None = None,
        validation_fraction: float = 0.02,
        split_seed: int = 1984,
    ) -> None:
        super().__init__(
            size=size, resize=resize, path=path, validation_fraction=validation_fraction, split_seed=split_seed
        )

    def read_corpus(self, root: Path) -> Corpus:
        files = [f"{stem}-{kind}" for stem in _STEMS.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        folder = self.locate(root, self.folders, ["|".join(_names(file)) for file in files])
        sources, sides = {}, set()
        for name, stem in _STEMS.items():
            images, labels = _find(folder, f"{stem}-images-idx3-ubyte"), _find(folder, f"{stem}-labels-idx1-ubyte")
            count, *side = read_shape(images, 3)
            classes = check_classes(read_array(labels, 1).astype(np.int64), len(self.classes), labels)
            if len(classes) != count:
                raise DataError(
                    f"{images} says {count:,} images, and {labels} {len(classes):,} classes",
                    "They should be as many. Are they of one download?",
                )
            sources[name] = Source(classes, partial(open_pictures, images, name))
            sides |= set(side)
        if len(sides) > 1:
            raise DataError(f"the images in {folder} are not square, or of several sizes: {sorted(sides)}")
        return self.published_splits(
            folder, sources["train"], sources["test"], classes=self.classes, channels=1, size=sides.pop()
        )


class FashionMNIST(MNIST):
    """Pictures of clothes, one channel: 60,000 to train on, 10,000 to test on; their label is `class`.

    size: pixels of what the encoder sees; 28, as they are stored, by default.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    path: the folder of the four idx files, gzipped or not; else, below the root, ``FashionMNIST/raw``, as torchvision
        has it, or where Debian's package dataset-fashion-mnist puts them.
    validation_fraction: of the training images, drawn by the seed from each class.
    """

    name = "fashion_mnist"
    published = "fashion-mnist"
    folders = ("FashionMNIST/raw", "fashion-mnist", "/usr/share/datasets/fashion-mnist")
    classes = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    def how_to_get(self, root: Path) -> str:
        return f"{super().how_to_get(root)} Debian has it as the package dataset-fashion-mnist."


def _names(file: str) -> list[str]:
    """What a file may be called: plain is read faster, and some copies have a dot in place of a dash."""
    return [f"{name}{suffix}" for suffix in ("", ".gz") for name in (file, file.replace("-idx", ".idx"))]


def _find(folder: Path, file: str) -> Path:
    return next(folder / name for name in _names(file) if (folder / name).is_file())
