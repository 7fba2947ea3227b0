"""Anyone's images: a folder of classes, of splits with classes, or of images alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from infomax_cli.core.api import IMAGE_SUFFIXES, DataError
from infomax_plugins.datasets._images import Corpus, ImageDataset, Ints, Source, everything, hold_out, keys_of
from infomax_plugins.datasets._picture_files import PictureFiles, list_pictures
from infomax_plugins.datasets._recordings import MISSING_HINT, listed

# what folders of splits are called, in lower case: by anyone, and by those who published on ImageNet and Places205
_SPLITS = {
    "train": ("train", "training", "ilsvrc2012_img_train", "places205_256_train"),
    "val": ("val", "valid", "validation", "ilsvrc2012_img_val", "places205_256_val"),
    "test": ("test", "testing"),
}
# no command gets these; by what their folder is called
_ELSEWHERE = {
    "tiny-imagenet-200": "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip (237 MiB) there",
    "imagenet": "https://image-net.org gives it to those who register (144 GB)",
    "places205": "http://places.csail.mit.edu gives it to those who ask",
}
_ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's: the name of a file, its class, and a box
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class Part:
    """A folder that was gone through: the paths of its images, the class of each ("" is unknown), and all classes."""

    folder: Path
    paths: Sequence[str]
    classes: Sequence[str]
    named: Sequence[str]

    @property
    def is_labelled(self) -> bool:
        return any(self.classes)


class ImageFolder(ImageDataset):
    """Images in folders, ``path/train/CLASS/...`` and so on; the label `class` is the name of the folder.

    Splits: the folders ``train`` and ``test`` or ``val``, also under the names that ImageNet's and Places205's have.
    What is scored on (the split `test`) is ``test``, or ``val`` where there is no ``test`` with classes, as with
    ImageNet and Tiny ImageNet, whose ``val_annotations.txt`` is read. ``path/CLASS/...`` without folders of splits, and
    images alone, without classes, are divided by the seed.

    Classes are all names of folders, sorted, those without images included, so that a class keeps its number.

    path: the folder, below the root or the working folder.
    size: pixels of what the encoder sees, high and wide.
    resize: pixels to which the shorter side is scaled for evaluation before the middle is cut out; by default 8/7 of
        `size`: 146 for 128, as published by Bachman et al. (2019), 256 for 224.
    grey: one channel in place of red, green and blue.
    test_fraction: drawn by the seed from each class, where no folder says what to test on.
    validation_fraction: of the training images, drawn by the seed from each class, unless there is a folder ``val``
        beside the one to test on.
    max_corrupt: the share of images that may turn out to be corrupt and are left out (but at least one, unless it is
        0).
    """

    name = "imagefolder"

    def __init__(
        self,
        *,
        path: Annotated[str, "FOLDER"],
        size: int = 128,
        resize: int | None = None,
        grey: bool = False,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.02,
        split_seed: int = 1984,
        max_corrupt: float = 0.01,
    ) -> None:
        super().__init__(
            size=size,
            resize=round(size * 8 / 7) if resize is None else resize,
            grey=grey,
            path=path,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
            max_corrupt=max_corrupt,
        )
        self.check_fraction("test_fraction", test_fraction)
        self.test_fraction = test_fraction

    def download(self, root: Path) -> None:
        raise DataError("imagefolder has nothing to download: it reads your own images", "Name them with data.path=.")

    def read_corpus(self, root: Path) -> Corpus:
        top = self._find(root)
        parts = {name: _read_part(folder) for name, folder in _split_folders(top).items()}
        parts |= {name: _without_folder(part) for name, part in parts.items() if _lies_in_one(part, parts["train"])}
        if not any(part.paths for part in parts.values()):
            raise DataError(f"there is no image in {top}", f"Known are {', '.join(IMAGE_SUFFIXES)}.")
        classes = sorted({name for part in parts.values() for name in part.named})
        if len(classes) < 2:  # nothing to be told apart
            classes = []
        _tell_empty(parts["train"], classes)
        sources = {name: self._source(top, part, classes) for name, part in parts.items()}
        why = {"test": "test_fraction is 0" if self.test_fraction == 0 else "there are too few images"}
        why |= self.why_no_validation()
        return Corpus(
            found_in=top,
            channels=3,
            size=self.size or 0,
            classes=tuple(classes),
            sources=sources,
            splits=self._divide(parts, sources),
            why={**why, "train": f"there is no image in {parts['train'].folder}"},
        )

    def _find(self, root: Path) -> Path:
        given = Path(self.path or "").expanduser()
        tried = list(dict.fromkeys([root / given, given.absolute()]))
        for folder in tried:
            if folder.is_dir():
                return folder
        elsewhere = _ELSEWHERE.get(given.name.lower())
        raise DataError(
            f"there is no folder {' and no '.join(map(str, tried))}",
            f"{f'No command gets it: {elsewhere}. ' if elsewhere else ''}Name it with data.path=. "
            f"{MISSING_HINT.replace('syllables', 'digits')}",
        )

    def _source(self, top: Path, part: Part, classes: Sequence[str]) -> Source:
        number = {name: place for place, name in enumerate(classes)}
        labels = np.array([number.get(name, -1) for name in part.classes], dtype=np.int64)
        inside = "" if top == part.folder else f"{part.folder.name}/"
        return Source(labels, partial(PictureFiles, part.folder, part.paths, inside, grey=self.grey))

    def _divide(self, parts: Mapping[str, Part], sources: Mapping[str, Source]) -> dict[str, tuple[str, Ints]]:
        """What the folders of splits say, and what the seed draws where they say nothing."""
        keys, labels = keys_of(parts["train"].paths), sources["train"].labels
        train = everything(sources["train"])
        splits: dict[str, tuple[str, Ints]] = {}
        scored = _scored(parts)
        if scored is not None:
            splits["test"] = (scored, everything(sources[scored]))
        else:
            train, test = hold_out(keys, labels, self.test_fraction, self.split_seed, "test")
            splits["test"] = ("train", test)
        if "val" in parts and scored != "val":
            splits["validation"] = ("val", everything(sources["val"]))
        else:
            kept, held = self.set_aside_validation(labels[train], keys[train])
            splits["validation"] = ("train", train[held])
            train = train[kept]
        return {"train": ("train", train), **splits}


def _split_folders(top: Path) -> dict[str, Path]:
    """The folders of splits; all is `train` where there are none."""
    there = {entry.name.lower(): entry for entry in sorted(top.iterdir()) if entry.is_dir()}
    found = {
        split: there[name] for split, names in _SPLITS.items() for name in reversed(names) if name in there
    }  # of several names for one split the first counts
    if not found:
        return {"train": top}
    if "train" not in found:
        raise DataError(
            f"{top} has a folder {next(iter(found.values())).name}, but none to train on",
            f"Call it one of {', '.join(_SPLITS['train'])}.",
        )
    return found


def _scored(parts: Mapping[str, Part]) -> str | None:
    """Which part is to be tested on: one with classes, where there is one."""
    there = [name for name in ("test", "val") if name in parts and parts[name].paths]
    labelled = [name for name in there if parts[name].is_labelled]
    if there and not labelled and parts["train"].is_labelled:
        folder = parts[there[0]].folder
        _log.warning(
            "the images in %s are in no folders of classes, so that nothing can be scored on them; "
            "sort them into folders called as in %s",
            folder, parts["train"].folder,
        )  # fmt: skip
    return next(iter([*labelled, *there]), None)


def _read_part(folder: Path) -> Part:
    found = list_pictures(folder)
    if (folder / _ANNOTATIONS).is_file():
        return _annotated(folder, found)
    named = sorted({path.split("/")[0] for path in found if path})
    if not any(names for path, names in found.items() if path):
        return Part(folder, found[""], [""] * len(found[""]), [])
    paths = [(f"{path}/{name}", path.split("/")[0]) for path, names in found.items() if path for name in names]
    if found[""]:
        _log.warning("%d images in %s are left out, since they lie in no folder of a class: %s",
                     len(found[""]), folder, listed(found[""]))  # fmt: skip
    return Part(folder, [path for path, _ in paths], [name for _, name in paths], named)


def _lies_in_one(part: Part, train: Part) -> bool:
    """Whether all images lie in one folder that is no class of training, such as ``test/images``."""
    return len(part.named) == 1 and part.named[0] not in train.named


def _without_folder(part: Part) -> Part:
    return replace(part, classes=[""] * len(part.paths), named=[])


def _annotated(folder: Path, found: Mapping[str, Sequence[str]]) -> Part:
    """Tiny ImageNet's validation images: their classes stand in a file."""
    try:
        lines = (folder / _ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {folder / _ANNOTATIONS}: {error}") from error
    class_of: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{folder / _ANNOTATIONS}, line {number}: expected the name of a file, a tab and its class")
        class_of[fields[0]] = fields[1]
    paths = [
        (f"{path}/{name}" if path else name, class_of.get(name, "")) for path, own in found.items() for name in own
    ]
    return Part(folder, [path for path, _ in paths], [name for _, name in paths], sorted(set(class_of.values())))


def _tell_empty(train: Part, classes: Sequence[str]) -> None:
    there = set(train.classes)
    if train.is_labelled and (empty := [name for name in classes if name not in there]):
        _log.warning("%d of %d classes have no image in %s, but keep their numbers: %s",
                     len(empty), len(classes), train.folder, listed(empty))  # fmt: skip
