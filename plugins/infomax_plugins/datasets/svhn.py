"""Street View House Numbers (Netzer et al. 2011): digits cut out at 32 by 32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._images import Corpus, ImageDataset, Source, check_classes
from infomax_plugins.datasets._pictures import InMemory, Pictures

_SIDE = 32


class SVHN(ImageDataset):
    """Photographs of digits, 32 by 32: 73,257 to train on, 26,032 to test on; their label is `class`.

    size: pixels of what the encoder sees; 32, as they are stored, by default.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    grey: one channel in place of red, green and blue.
    path: the folder of ``train_32x32.mat`` and ``test_32x32.mat``; else, below the root, ``SVHN``, or the root itself.
    validation_fraction: of the training images, drawn by the seed from each class.
    """

    name = "svhn"
    published = "svhn"

    def __init__(
        self,
        *,
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

    def read_corpus(self, root: Path) -> Corpus:
        folder = self.locate(root, ("SVHN", "svhn", ""), ["train_32x32.mat", "test_32x32.mat"])
        train, test = (_source(folder / f"{name}_32x32.mat", name) for name in ("train", "test"))
        return self.published_splits(folder, train, test, classes=tuple("0123456789"), channels=3, size=_SIDE)


def _source(path: Path, kind: str) -> Source:
    """From the header and the classes alone. The digit 0 has the class 10 in the files, and 0 here."""
    shape = _header(path)
    labels = np.asarray(_load(path, "y")).reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) != shape[3]:
        raise DataError(f"{path} has {shape[3]:,} images, but {labels.size:,} classes of type {labels.dtype}")
    classes = check_classes(labels.astype(np.int64), 10, path, first=1)
    return Source((classes + 1) % 10, partial(_open, path, kind, shape))


def _open(path: Path, kind: str, shape: tuple[int, ...]) -> Pictures:
    images = np.asarray(_load(path, "X"))  # (H, W, C, N), an image after the other in memory
    if images.dtype != np.uint8 or images.shape != shape:
        raise DataError(f"{path} is damaged: X is {images.dtype} {images.shape}, and should be uint8 {shape}")
    return InMemory(kind, images.transpose(3, 2, 0, 1))


def _header(path: Path) -> tuple[int, ...]:
    from scipy.io import whosmat

    with _Reading(path):
        shapes: Mapping[str, tuple[int, ...]] = {name: shape for name, shape, _ in whosmat(path)}
    shape = shapes.get("X", ())
    if "y" not in shapes or len(shape) != 4 or shape[:3] != (_SIDE, _SIDE, 3):
        held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise DataError(
            f"{path} is none of SVHN's files, or cut short: it holds {held}", "It should hold X (32, 32, 3, N) and y."
        )
    return shape


def _load(path: Path, variable: str) -> Any:
    from scipy.io import loadmat

    with _Reading(path):
        return loadmat(path, variable_names=[variable])[variable]


class _Reading:
    """Whatever scipy makes of a damaged file becomes one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            lines = str(error).splitlines() or [type(error).__name__]
            raise DataError(
                f"{self.path} is damaged, or cut short: {lines[0]}", "Copy or download it again."
            ) from error
