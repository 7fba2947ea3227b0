"""A dataset whose labels can be heard: tones of four pitches, on and off, by one of three loud or soft speakers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infomax_cli.core.api import DataError, DataSpec, Item, LabelSpec, torch_generator
from infomax_cli.core.build import build_encoder, resolve
from infomax_cli.core.subject import Subject
from infomax_cli.recipe import parse

CELL = 160
LABELS: Mapping[str, LabelSpec] = {
    "pitch": LabelSpec(4, names=("low", "middle", "high", "top")),
    "luck": LabelSpec(4),
    "voice": LabelSpec(3),
    "unknown": LabelSpec(2),
    "sounding": LabelSpec(2, hop=CELL, offset=CELL / 2),
    "later": LabelSpec(2, hop=CELL, offset=CELL / 2 + 40),
}
RECIPE = {
    "name": "planted",
    "data": {"name": "planted"},
    "encoder": {"name": "speech_conv", "channels": 8, "context_channels": 6},
    "cut": "each",
    "loss": {"name": "infonce", "steps": 2, "negatives": 4},
    "train": {"steps": 2, "batch": 4, "workers": 0},
}


class Planted:
    """`sizes` are the items of each split: one of 0 is empty, one that is left out does not exist. `pitches` are those
    heard in `train`. Voices are probed on `seen`."""

    def __init__(
        self, *, sizes: dict[str, int] | None = None, labels: list[str] | None = None, pitches: int = 4
    ) -> None:
        self.sizes = {"train": 48, "test": 24, "seen": 12} if sizes is None else sizes
        self.labels, self.pitches = list(LABELS) if labels is None else labels, pitches

    @property
    def probe_splits(self) -> Mapping[str, tuple[str, str]]:
        return {"voice": ("train", "seen")}

    def download(self, root: Path) -> None: ...

    def describe(self, root: Path) -> DataSpec:
        labels = {name: LABELS[name] for name in self.labels}
        return DataSpec(1, (1600,), ("time",), 16000, labels, {name: n for name, n in self.sizes.items() if n})

    def split(self, root: Path, name: str) -> PlantedSplit:
        if name not in self.sizes:
            raise DataError(f"planted has no split {name!r}")
        return PlantedSplit(name, self.sizes[name], self.pitches if name == "train" else 4)


class PlantedSplit:
    def __init__(self, name: str, items: int, pitches: int) -> None:
        self.name, self.items, self.pitches = name, items, pitches

    def __len__(self) -> int:
        return self.items

    def item_labels(self, name: str) -> list[int]:
        return [int(self[index, None].labels[name]) for index in range(self.items)]

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, seed = key
        random = torch_generator("planted", self.name, index)
        pitch, voice = index % self.pitches, index // 4 % 3
        cells = 14 + index % 5
        sounding = (torch.rand(cells, generator=random) < 0.6).long()
        time = torch.arange(cells * CELL) / 16000
        tone = torch.sin(2 * torch.pi * 250 * 2**pitch * time + 6 * torch.rand(1, generator=random))
        wave = 0.05 * (1 + 2 * voice) * tone * sounding.repeat_interleave(CELL)
        wave = wave + 1e-3 * torch.randn(len(wave), generator=random)
        luck = int(torch.randint(4, (), generator=random))
        if seed is not None:
            first = CELL * int(torch.randint(cells - 9, (), generator=torch_generator("crop", seed)))
            wave, sounding = wave[first : first + 1600], sounding[first // CELL : first // CELL + 10]
        labels: dict[str, Any] = {"pitch": pitch, "luck": luck, "voice": voice, "unknown": -1}
        return Item(wave[None], {**labels, "sounding": sounding, "later": sounding}, f"{self.name}-{index}")


def subject(*, encoder: Mapping[str, Any] | None = None, dataset: Planted | None = None) -> Subject:
    """The planted data and a small encoder, untrained."""
    made = dataset or Planted()
    raw = {**RECIPE, "data": {"name": "syllables"}}  # a name that the registry knows; the data is not made from it
    if encoder is not None:
        raw["encoder"] = dict(encoder)
    recipe = resolve(parse(raw, "planted.yaml"))
    device = torch.device("cpu")
    return Subject(recipe, Path(), made, made.describe(Path()), build_encoder(recipe, device), device)
