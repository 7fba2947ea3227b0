"""scikit-learn's handwritten digits, 8 by 8: real images that need no download."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from infomax_plugins.datasets._images import Corpus, ImageDataset, Ints, Source, hold_out
from infomax_plugins.datasets._pictures import Bytes, InMemory

_WHITE = 16  # its pixels count the points of 4 x 4 that were inked


class Digits(ImageDataset):
    """1,797 handwritten digits of one channel, 8 by 8 (Alpaydin and Kaynak 1998); their label is `class`.

    size: pixels of what the encoder sees; images are enlarged to it: 32 for encoders of CIFAR's images.
    resize: pixels to which images are scaled for evaluation before their middle is cut out.
    test_fraction: drawn by the seed from each class.
    validation_fraction: of each class's training images.
    """

    name = "digits"

    def __init__(
        self,
        *,
        size: int | None = None,
        resize: int | None = None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.1,
        split_seed: int = 1984,
    ) -> None:
        super().__init__(
            size=size, resize=resize, path=None, validation_fraction=validation_fraction, split_seed=split_seed
        )
        self.check_fraction("test_fraction", test_fraction)
        self.test_fraction = test_fraction

    def download(self, root: Path) -> None:
        """Nothing: they come with scikit-learn."""

    def read_corpus(self, root: Path) -> Corpus:
        images, labels = _load()
        keys = np.arange(len(labels), dtype=np.uint64)
        learnt, test = hold_out(keys, labels, self.test_fraction, self.split_seed, "test")
        kept, held = self.set_aside_validation(labels[learnt], keys[learnt])
        return Corpus(
            found_in=None,
            channels=1,
            size=8,
            classes=tuple("0123456789"),
            sources={"all": Source(labels, partial(InMemory, "digits", images, _WHITE))},
            splits={
                "train": ("all", learnt[kept]),
                "validation": ("all", learnt[held]),
                "test": ("all", test),
            },
            why={"test": "test_fraction is 0", **self.why_no_validation()},
        )


def _load() -> tuple[Bytes, Ints]:
    """Images ``(1797, 1, 8, 8)`` and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.uint8)[:, None], found.target.astype(np.int64)
