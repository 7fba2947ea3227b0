"""Where the inputs of `infomax embed` come from: files, folders, a split. Each is read only when it is its turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from infomax_cli.core.api import (
    IMAGE_SUFFIXES,
    Split,
    audio_info,
    find_files,
    fit_image,
    paths_of,
    read_audio,
    read_image,
)
from infomax_cli.core.inputs import InputSpec
from infomax_cli.core.streaming import Reader
from infomax_cli.errors import DataError, UsageError

SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".sph")


@dataclass(frozen=True)
class Reading:
    """A raw input, opened: `total` samples (of an image, its height), of which `read` gives a part."""

    id: str
    total: int
    read: Reader
    labels: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """`place` tells where an input is, as the index does; no two have the same."""

    @property
    def place(self) -> str: ...

    def open(self) -> Reading:
        """Raises `DataError` where it cannot be read."""
        ...


@dataclass(frozen=True)
class File:
    """A file of sound or an image; `id` is its path without the folder that was named."""

    path: Path
    id: str
    inputs: InputSpec
    shorter: int | None = None

    @property
    def place(self) -> str:
        return str(self.path)

    def open(self) -> Reading:
        return self._sound() if self.inputs.is_sound else self._image()

    def _sound(self) -> Reading:
        rate = self.inputs.rate
        assert rate is not None
        total = audio_info(self.path).frames_at(rate)

        def read(start: int, stop: int) -> Tensor:
            return read_audio(self.path, start, stop - start, rate)[None]

        return Reading(self.id, total, read)

    def _image(self) -> Reading:
        image = fit_image(read_image(self.path, grey=self.inputs.channels == 1), _two(self.inputs.grid), self.shorter)
        return Reading(self.id, image.shape[1], lambda start, stop: image[None])


@dataclass(frozen=True)
class OfSplit:
    """An item of a split of a dataset, whole."""

    split: Split
    index: int
    name: str
    labels: Mapping[str, Sequence[int]]

    @property
    def place(self) -> str:
        return f"{self.name}[{self.index}]"

    def open(self) -> Reading:
        item = self.split[self.index, None]
        labels = {name: int(values[self.index]) for name, values in self.labels.items()}
        return Reading(item.id, item.input.shape[1], lambda start, stop: item.input[None, :, start:stop], labels)


def files(given: Sequence[Path], inputs: InputSpec, shorter: int | None) -> list[File]:
    """All that is named, folders with all that lies in them; each file once, in the order of paths."""
    if inputs.channels not in ((1,) if inputs.is_sound else (1, 3)) or not (inputs.is_sound or len(inputs.axes) == 2):
        raise UsageError(
            f"the encoder takes {inputs.describe()}: files hold no such thing",
            "embed a split of its data: --split test",
        )
    found: dict[Path, str] = {}
    for path in given:
        for file, name in _walk(path, SOUNDS if inputs.is_sound else IMAGE_SUFFIXES):
            found.setdefault(file.absolute(), name)
    if not found:
        kind = "sound" if inputs.is_sound else "image"
        raise DataError(f"there is no {kind} in {', '.join(map(str, given))}", "name files, or folders that hold some")
    return [File(path, name, inputs, shorter) for path, name in found.items()]


def _walk(path: Path, suffixes: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """A file as it is; of a folder all of a kind below it that are not passed over (see `find_files`)."""
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        yield from ((path / name, name) for name in paths_of(find_files(path, suffixes).looked_at))
    else:
        raise UsageError(f"there is no file or folder {path}", "name files, folders, or --split test")


class Names:
    """A file's name for each input: its own relative path; none twice, even where upper and lower case are one."""

    def __init__(self, suffix: str, taken: Sequence[str] = ()) -> None:
        self.suffix = suffix
        self._taken = {name.casefold() for name in taken}

    def give(self, id: str, *, is_path: bool) -> str:
        stem = id.rpartition(".")[0] if is_path and "." in id.rpartition("/")[2][1:] else id
        parts = [re.sub(r"[\x00-\x1f<>:\"\\|?*]", "_", part) for part in stem.split("/")]
        base = "/".join(part for part in parts if part not in ("", ".", "..")) or "item"
        name, number = f"{base}.{self.suffix}", 2
        while name.casefold() in self._taken:
            name, number = f"{base}-{number}.{self.suffix}", number + 1
        self._taken.add(name.casefold())
        return name


def _two(grid: Sequence[int]) -> tuple[int, int]:
    height, width = grid
    return height, width
