"""Images whose class can be seen, as a colour, and an encoder with batch norm for them that trains in a moment."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis, DataError, DataSpec, Item, LabelSpec, torch_generator
from infomax_cli.core.build import build_encoder, resolve
from infomax_cli.core.subject import Subject
from infomax_cli.recipe import parse

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.9], [0.8, 0.8, 0.1], [0.7, 0.1, 0.8]])
NAMES = ("red", "green", "blue", "yellow", "violet")
RECIPE = {
    "name": "pictured",
    "data": {"name": "pictured"},
    "encoder": {"name": "small_convnet"},
    "loss": {"name": "supervised", "label": "class"},
    "train": {"steps": 2, "batch": 8, "workers": 0},
}


class Pictured:
    """A disc of the class's colour somewhere on noise. Every `unlabelled`-th training item's class is unknown."""

    def __init__(
        self, *, classes: int = 4, size: int = 16, channels: int = 3, items: int = 40, unlabelled: int | None = None
    ) -> None:
        self.classes, self.size, self.channels, self.items, self.unlabelled = classes, size, channels, items, unlabelled

    def download(self, root: Path) -> None: ...

    def describe(self, root: Path) -> DataSpec:
        labels = {"class": LabelSpec(self.classes, names=NAMES[: self.classes])}
        grid, sizes = (self.size, self.size), {"train": self.items, "test": 20}
        return DataSpec(self.channels, grid, ("height", "width"), None, labels, sizes)

    def split(self, root: Path, name: str) -> PicturedSplit:
        sizes = {"train": self.items, "test": 20}
        if name not in sizes:
            raise DataError(f"pictured has no split {name!r}")
        return PicturedSplit(self, name, sizes[name])


class PicturedSplit:
    def __init__(self, data: Pictured, name: str, items: int) -> None:
        self.data, self.name, self.items = data, name, items

    def __len__(self) -> int:
        return self.items

    def item_labels(self, name: str) -> list[int]:
        return [self._label(index) for index in range(self.items)]

    def _label(self, index: int) -> int:
        unknown = self.name == "train" and self.data.unlabelled and index % self.data.unlabelled == 0
        return -1 if unknown else index % self.data.classes

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, _ = key
        random, side = torch_generator("pictured", self.name, index), self.data.size
        image = 0.3 + 0.1 * torch.rand(3, side, side, generator=random)
        middle = side // 4 + torch.randint(side // 2, (2,), generator=random)
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        disc = (rows - middle[0]).square() + (columns - middle[1]).square() < (side / 5) ** 2
        image[:, disc] = COLOURS[index % self.data.classes][:, None]
        image = image if self.data.channels == 3 else image.mean(0, keepdim=True)
        return Item(image, {"class": self._label(index)}, f"{self.name}-{index}")


class SmallConvnet(nn.Module):
    """Maps of 7x7 and 5x5, then two vectors, as Deep InfoMax's conv, fc and Y; batch norm in each but the last."""

    def __init__(self, *, channels: int = 6) -> None:
        super().__init__()
        shapes = [(3, channels, 4, 2), (channels, channels, 3, 1), (channels, 12, 5, 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, k, s), nn.BatchNorm2d(b), nn.ReLU()) for a, b, k, s in shapes
        )
        self.stages.append(nn.Conv2d(12, 4, 1))

    def prepare(self, x: Tensor) -> Tensor:
        return x - 0.5

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        axes = (Axis("height"), Axis("width"))
        for kernel, stride in [(4, 2), (3, 1), (5, 1), (1, 1)][: stage + 1]:
            axes = (axes[0].convolve(kernel, stride), axes[1].convolve(kernel, stride))
        return axes


def subject(data: Pictured | None = None) -> Subject:
    """The images and the encoder, untrained. Needs both planted in the registry."""
    made, device = data or Pictured(), torch.device("cpu")
    recipe = resolve(parse(RECIPE, "pictured.yaml"))
    return Subject(recipe, Path(), made, made.describe(Path()), build_encoder(recipe, device), device)
