"""A dataset that is synthesized in memory: chords of harmonics, switched on and off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from infomax_cli.core.api import DataError, DataSpec, Item, LabelSpec, torch_generator

HOP = 160  # samples from an aligned label to the next: 10 ms at 16 kHz


class Tones:
    """Sums of sinusoids over one of `tones` fundamentals, half of the time silent.

    Labels: ``tone``, of the whole item, and ``sounding`` (0 or 1), one for each 10 ms. `items` counts the training
    items of `length` samples; there are half as many test items. A training item is a crop of `crop` samples.
    """

    def __init__(
        self,
        *,
        tones: int = 6,
        items: int = 48,
        length: int = 6400,
        crop: int = 2560,
        rate: int = 16000,
        noise: float = 0.01,
    ) -> None:
        if not HOP <= crop <= length:
            raise DataError(f"echo_tones: crop must lie between {HOP} and length ({length}), not at {crop}")
        self.tones, self.length, self.crop, self.rate, self.noise = tones, length, crop, rate, noise
        self.sizes = {"train": items, "test": (items + 1) // 2}

    def download(self, root: Path) -> None:
        """There is nothing to fetch."""

    def describe(self, root: Path) -> DataSpec:
        return DataSpec(
            channels=1,
            grid=(self.crop,),
            axes=("time",),
            rate=self.rate,
            labels={
                "tone": LabelSpec(
                    self.tones, names=tuple(f"{self.fundamental(tone):.0f} Hz" for tone in range(self.tones))
                ),
                "sounding": LabelSpec(2, hop=HOP, offset=HOP / 2, names=("silent", "sounding")),
            },
            sizes=self.sizes,
        )

    def split(self, root: Path, name: str) -> TonesSplit:
        if name not in self.sizes:
            raise DataError(f"echo_tones has no split {name!r}", f"there are: {', '.join(self.sizes)}")
        return TonesSplit(self, name)

    def fundamental(self, tone: int) -> float:
        """In Hz; the tones are a third apart."""
        return 110.0 * 2.0 ** (tone / 3)


class TonesSplit:
    """One split of `Tones`; item i has tone ``i % tones``, and is always the same."""

    def __init__(self, tones: Tones, name: str) -> None:
        self.tones, self.name = tones, name

    def __len__(self) -> int:
        return self.tones.sizes[self.name]

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, seed = key
        sound, sounding = self._synthesize(index)
        if seed is not None:
            # on the labels' grid, so that they stay aligned
            places = (self.tones.length - self.tones.crop) // HOP + 1
            first = int(torch.randint(places, (), generator=torch_generator("echo_tones crop", seed)))
            sound = sound[first * HOP : first * HOP + self.tones.crop]
            sounding = sounding[first : first + self.tones.crop // HOP]
        labels = {"tone": index % self.tones.tones, "sounding": sounding}
        return Item(input=sound.unsqueeze(0), labels=labels, id=f"{self.name}-{index}")

    def item_labels(self, name: str) -> Sequence[int]:
        if name != "tone":
            raise DataError(f"echo_tones has no whole-item label {name!r}", "there is: tone")
        return [index % self.tones.tones for index in range(len(self))]

    def _synthesize(self, index: int) -> tuple[Tensor, Tensor]:
        """The whole sound ``(length,)`` in [-1, 1], and for each of its 10 ms whether it sounds."""
        random = torch_generator("echo_tones", self.name, index)
        spec = self.tones
        cells = spec.length // HOP
        sounding = (torch.rand(cells // 8 + 1, generator=random) < 0.5).long().repeat_interleave(8)[:cells]
        gate = torch.zeros(spec.length)
        gate[: cells * HOP] = sounding.repeat_interleave(HOP).float()
        harmonics = torch.arange(1, 5).unsqueeze(1)  # (4, 1)
        phases = 2 * torch.pi * torch.rand(4, 1, generator=random)
        strengths = torch.rand(4, 1, generator=random) / harmonics
        time = torch.arange(spec.length) / spec.rate
        waves = torch.sin(
            2 * torch.pi * spec.fundamental(index % spec.tones) * harmonics * time + phases
        )  # (4, length)
        tone = (strengths * waves).sum(dim=0) / strengths.sum()
        hiss = spec.noise * torch.randn(spec.length, generator=random)
        return (0.3 * gate * tone + hiss).clamp(-1.0, 1.0), sounding
