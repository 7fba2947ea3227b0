"""A dataset that is downloaded: it says of what it consists, and infomax fetches, checks and mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from infomax_cli.core.api import DataError, DataSpec, Item, RemoteFile, Subset, obtain, read_audio

NAME = "echo_clicks"


class Clicks:
    """Short sounds, out of one archive at `url` whose checksum is `digest` (``sha256:...``)."""

    def __init__(self, *, url: str, digest: str, size: int | None = None, crop: int = 1600) -> None:
        self.crop = crop
        file = RemoteFile(name=url.rpartition("/")[2], urls=(url,), size=size, digest=digest)
        self.downloads: Mapping[str, Subset] = {"all": Subset(folder=NAME, inside="clicks", files=(file,))}

    def download(self, root: Path) -> None:
        obtain(NAME, self.downloads, root)

    def describe(self, root: Path) -> DataSpec:
        return DataSpec(1, (self.crop,), ("time",), 16000, labels={}, sizes={"train": len(self._paths(root))})

    def split(self, root: Path, name: str) -> ClicksSplit:
        return ClicksSplit(self._paths(root), self.crop)

    def _paths(self, root: Path) -> list[Path]:
        paths = sorted((root / NAME).glob("*.wav"))
        if not paths:
            raise DataError(f"there are no clicks in {root / NAME}", f"infomax download {NAME}")
        return paths


class ClicksSplit:
    """Every item is the beginning of its file."""

    def __init__(self, paths: Sequence[Path], crop: int) -> None:
        self.paths, self.crop = paths, crop

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        sound = read_audio(self.paths[key[0]], 0, self.crop)
        sound = torch.nn.functional.pad(sound, (0, self.crop - sound.shape[-1]))
        return Item(input=sound, labels={}, id=self.paths[key[0]].stem)

    def item_labels(self, name: str) -> Sequence[int]:
        raise DataError(f"echo_clicks has no label {name!r}")
