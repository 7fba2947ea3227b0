"""Images as they are held: in memory, or mapped from a file, and handed out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infomax_cli.core.api import DataError

Bytes = NDArray[np.uint8]


class Pictures(Protocol):
    """Images in a row. May be pickled, and then leaves what can be opened again behind."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """``(C, H, W)`` float32 in [0, 1], the whole image. Raises `DataError` where it cannot be read."""
        ...

    def name(self, index: int) -> str: ...


class InMemory:
    """Images ``(N, C, H, W)`` of bytes, of which `peak` is white; the workers of a loader share them."""

    def __init__(self, kind: str, images: Bytes, peak: int = 255) -> None:
        self.kind, self.peak = kind, peak
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].to(torch.float32, memory_format=torch.contiguous_format) / self.peak

    def name(self, index: int) -> str:
        return f"{self.kind}/{index}"


class Mapped:
    """Images ``(N, C, H, W)`` that lie as bytes in a file from `offset` on, and are read from it one by one.

    With `by_column` each channel lies there as ``(W, H)``.
    """

    def __init__(
        self, kind: str, path: Path, shape: tuple[int, int, int, int], *, offset: int = 0, by_column: bool = False
    ) -> None:
        self.kind, self.path, self.shape, self.offset, self.by_column = kind, path, shape, offset, by_column
        self._map: Bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        image = self._open()[index].astype(np.float32)
        return torch.from_numpy(image.swapaxes(1, 2) if self.by_column else image).contiguous() / 255

    def name(self, index: int) -> str:
        return f"{self.kind}/{index}"

    def _open(self) -> Bytes:
        if self._map is None:
            count, channels, height, width = self.shape
            stored = (count, channels, width, height) if self.by_column else self.shape
            try:
                self._map = np.memmap(self.path, np.uint8, "r", self.offset, stored)
            except (OSError, ValueError) as error:  # ValueError: the file has become shorter
                raise DataError(f"cannot read {self.path}: {error}") from error
        return self._map


class Joined:
    """The images of several, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        part, place = self._locate(index)
        return part[place]

    def name(self, index: int) -> str:
        part, place = self._locate(index)
        return part.name(place)

    def _locate(self, index: int) -> tuple[Pictures, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[which], index - int(self._ends[which]) + len(self.parts[which])
