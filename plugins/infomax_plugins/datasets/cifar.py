"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): photographs of 32 by 32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from infomax_cli.core.api import DataError, IndexCache
from infomax_plugins.datasets._images import Corpus, ImageDataset, Ints, Source, check_classes
from infomax_plugins.datasets._pickles import load_pickle
from infomax_plugins.datasets._pictures import Bytes, InMemory, Pictures

_SIDE = 32
_DAMAGED = "Copy or download it again."


class CIFAR10(ImageDataset):
    """Photographs in ten classes: 50,000 to train on, 10,000 to test on; their label is `class`.

    The published files are pickles; nothing in them but arrays, text, numbers, lists and dicts is let in.

    size: pixels of what the encoder sees; 32, as they are stored, by default.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    grey: one channel in place of red, green and blue.
    path: the folder of the batches; else, below the root, ``cifar-10-batches-py``, as torchvision has it.
    validation_fraction: of the training images, drawn by the seed from each class. Published: 0.
    """

    name = "cifar10"
    published = "cifar10"
    folder: ClassVar[str] = "cifar-10-batches-py"
    batches: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_batch: ClassVar[str] = "test_batch"
    meta: ClassVar[str] = "batches.meta"
    keys: ClassVar[tuple[str, str]] = ("labels", "label_names")
    count: ClassVar[int] = 10

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
        folder = self.locate(root, (self.folder,), [*self.batches, self.test_batch, self.meta])
        names = _entry(folder / self.meta, self.keys[1], list)
        if len(names) != self.count or not all(isinstance(name, str) for name in names):
            raise DataError(f"{folder / self.meta} names {len(names)} classes, and should name {self.count}")
        train = self._source([folder / batch for batch in self.batches], "train")
        test = self._source([folder / self.test_batch], "test")
        return self.published_splits(folder, train, test, classes=names, channels=3, size=_SIDE)

    def _source(self, paths: Sequence[Path], kind: str) -> Source:
        labels = [self._labels(path) for path in paths]
        return Source(np.concatenate(labels), partial(_open, paths, kind, [len(own) for own in labels]))

    def _labels(self, path: Path) -> Ints:
        """The classes in a batch, which is read whole for them the first time only."""
        status = path.stat()
        cache = IndexCache("cifar", ["1", str(path), status.st_size, status.st_mtime_ns, self.keys[0]])
        values = cache.get(lambda: _entry(path, self.keys[0], list))
        if not all(isinstance(value, int) for value in values):
            raise DataError(f"{path} is damaged: {self.keys[0]} are no whole numbers", _DAMAGED)
        return check_classes(np.array(values, dtype=np.int64), self.count, path)


class CIFAR100(CIFAR10):
    """Photographs in a hundred classes: 50,000 to train on, 10,000 to test on; their label is `class`.

    The published files are pickles; nothing in them but arrays, text, numbers, lists and dicts is let in.

    size: pixels of what the encoder sees; 32, as they are stored, by default.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    grey: one channel in place of red, green and blue.
    path: the folder of the batches; else, below the root, ``cifar-100-python``, as torchvision has it.
    validation_fraction: of the training images, drawn by the seed from each class. Published: 0.
    """

    name = "cifar100"
    published = "cifar100"
    folder = "cifar-100-python"
    batches = ("train",)
    test_batch = "test"
    meta = "meta"
    keys = ("fine_labels", "fine_label_names")
    count = 100


def _open(paths: Sequence[Path], kind: str, counts: Sequence[int]) -> Pictures:
    images = np.concatenate([_images(path, count) for path, count in zip(paths, counts, strict=True)])
    return InMemory(kind, images)


def _images(path: Path, count: int) -> Bytes:
    data: Bytes = _entry(path, "data", np.ndarray)
    if data.dtype != np.uint8 or data.shape != (count, 3 * _SIDE * _SIDE):
        raise DataError(
            f"{path} is damaged: its data is {data.dtype} {data.shape}, and should be uint8 {(count, 3 * _SIDE**2)}",
            _DAMAGED,
        )
    return data.reshape(count, 3, _SIDE, _SIDE)


def _entry(path: Path, key: str, kind: type) -> Any:
    """What a pickled dict has under `key`, which must be of a type."""
    content = load_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise DataError(f"{path} is none of CIFAR's files: it has no {kind.__name__} called {key}", _DAMAGED)
    return content[key]
