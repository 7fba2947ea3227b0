"""Tiny data sets in the formats in which the published ones come."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- pickles of Python 2, as CIFAR's are -----------------------------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    """A pickle (protocol 2) as Python 2 writes it: text is bytes, and numpy has its old names."""
    return b"\x80\x02" + _dump(value) + b"."


def _dump(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return _dump_array(value)
    if isinstance(value, dict):
        return b"}(" + b"".join(_dump(part) for pair in value.items() for part in pair) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_dump, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    content = value.encode() if isinstance(value, str) else value
    return b"T" + struct.pack("<i", len(content)) + content


def _dump_array(array: NDArray[Any]) -> bytes:
    shape = b"(" + b"".join(_dump(side) for side in array.shape) + b"t"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _dump(0) + b"\x85" + _dump("b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + _dump("u1") + _dump(0) + _dump(1) + b"\x87R"
    dtype += b"(" + _dump(3) + _dump("|") + b"NNN" + _dump(-1) + _dump(-1) + _dump(0) + b"tb"
    return empty + b"(" + _dump(1) + shape + dtype + b"\x89" + _dump(array.tobytes()) + b"tb"


def write_cifar10(folder: Path, per_batch: int = 4) -> tuple[Bytes, list[int], Bytes, list[int]]:
    """Five batches and a test batch; (training images, classes, test images, classes)."""
    folder.mkdir(parents=True)
    images, labels = noise(6 * per_batch, 3, 32, 32), [place % 10 for place in range(6 * per_batch)]
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        own = slice(number * per_batch, (number + 1) * per_batch)
        batch = {"batch_label": name, "labels": labels[own], "data": images[own].reshape(per_batch, -1)}
        (folder / name).write_bytes(python2_pickle(batch))
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(python2_pickle({"num_cases_per_batch": per_batch, "label_names": names}))
    last = 5 * per_batch
    return images[:last], labels[:last], images[last:], labels[last:]


def write_cifar100(folder: Path, count: int = 6) -> tuple[Bytes, list[int]]:
    folder.mkdir(parents=True)
    images, labels = noise(count, 3, 32, 32), [99 - place for place in range(count)]
    batch = {"data": images.reshape(count, -1), "fine_labels": labels, "coarse_labels": [0] * count}
    for name in ("train", "test"):
        (folder / name).write_bytes(python2_pickle(batch))
    names = [f"fine {number}" for number in range(100)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names, "coarse_label_names": ["x"] * 20}))
    return images, labels


# --- the others ------------------------------------------------------------------------------------------------------


def write_stl10(folder: Path, labelled: int = 20, unlabelled: int = 30, tested: int = 10) -> dict[str, Bytes]:
    """Images ``(N, 3, H, W)`` by file; in the files each channel lies column by column, and classes begin with 1."""
    folder.mkdir(parents=True)
    written = {}
    for seed, (name, count) in enumerate({"train": labelled, "test": tested, "unlabeled": unlabelled}.items()):
        written[name] = noise(count, 3, 96, 96, seed=seed)
        (folder / f"{name}_X.bin").write_bytes(written[name].transpose(0, 1, 3, 2).tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(bytes(1 + place % 10 for place in range(count)))
    return written


def write_svhn(folder: Path, count: int = 20) -> Bytes:
    """Images ``(N, 3, H, W)``; image i is of the digit i modulo 10, and has the class 10 where that is 0."""
    from scipy.io import savemat

    folder.mkdir(parents=True)
    images = noise(count, 3, 32, 32)
    classes = np.array([[place % 10 or 10] for place in range(count)], dtype=np.uint8)
    for name in ("train", "test"):
        content = {"X": images.transpose(2, 3, 1, 0), "y": classes}
        savemat(folder / f"{name}_32x32.mat", content, do_compression=True)
    return images


def idx(array: Bytes) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, zipped: bool, counts: Sequence[int] = (20, 10)) -> Bytes:
    """Images ``(N, 28, 28)`` of `train`; image i is of class i modulo 10."""
    folder.mkdir(parents=True)
    for stem, count in zip(("train", "t10k"), counts, strict=True):
        classes = np.arange(count, dtype=np.uint8) % 10
        for kind, array in {"images-idx3": noise(count, 28, 28), "labels-idx1": classes}.items():
            name = f"{stem}-{kind}-ubyte"
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return noise(counts[0], 28, 28)


# --- folders of classes ----------------------------------------------------------------------------------------------


def write_folders(folder: Path, *splits: str, classes: int = 3, each: int = 4, side: int = 70) -> None:
    """PNGs of `side` by `side` + 10 pixels, ``folder/SPLIT/CLASS/N.png``."""
    from PIL import Image

    for seed, split in enumerate(splits):
        for number in range(classes):
            place = folder / split / f"class {number}"
            place.mkdir(parents=True)
            for index, pixels in enumerate(noise(each, side, side + 10, 3, seed=10 * seed + number)):
                Image.fromarray(pixels).save(place / f"{index}.png")
