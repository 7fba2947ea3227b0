"""Points: which there are, where they lie in their items, and what their features are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from infomax_cli.core.api import Axis, DataError, DataSpec, Item, LabelSpec, UsageError
from infomax_cli.core.cloud import Cloud, Unit, gather, unit_of
from infomax_cli.core.features import Layer

# labels every 4 samples, the first centred at sample 2
PHONE = LabelSpec(classes=3, hop=4, offset=2.0, names=("a", "b", "c"))
SPEAKER = LabelSpec(classes=2)
DATA = DataSpec(1, (24,), ("time",), 16000, {"phone": PHONE, "speaker": SPEAKER}, {"test": 4})


class Words:
    """Four items of 24 samples, each sample ten times its item plus the phone it lies in."""

    phones: Sequence[Sequence[int]] = (
        (0, 0, 1, 1, -1, 2),
        (1, 1, 1, 0, 0, 0),
        (2, 2, 2, 2, 2, 2),
        (-1, -1, -1, 1, 1, 0),
    )

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, _ = key
        phones = torch.tensor(self.phones[index])
        samples = (10.0 * index + phones).repeat_interleave(4)
        return Item(samples.unsqueeze(0), {"phone": phones, "speaker": index % 2}, f"word {index}")

    def item_labels(self, name: str) -> Sequence[int]:
        return [index % 2 for index in range(4)]


class Halved:
    """Two layers: the samples two by two, and those negated."""

    axis = Axis().convolve(2, 2)
    layers = (Layer("0", (axis,)), Layer("1", (axis,)))

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x.unflatten(-1, (-1, 2)).mean(-1)
        return y, -y


def points(label: str, unit: Unit, limit: int = 100, **options: float) -> Cloud:
    return gather(Halved(), (0, 1), Words(), DATA, label, unit=unit, limit=limit, **options)  # type: ignore[arg-type]


def test_a_segment_is_a_run_of_one_value() -> None:
    cloud = points("phone", "segment")
    found = {(p.id, p.start, p.stop, p.labels["phone"]) for p in cloud.points}
    assert found == {
        ("word 0", 0, 8, 0), ("word 0", 8, 16, 1), ("word 0", 20, 24, 2), ("word 1", 0, 12, 1), ("word 1", 12, 24, 0),
        ("word 2", 0, 24, 2), ("word 3", 12, 20, 1), ("word 3", 20, 24, 0),
    }  # fmt: skip
    for point, feature, negated in zip(cloud.points, *cloud.features, strict=True):
        assert feature.item() == 10 * point.item + point.labels["phone"] == -negated.item()
        assert point.labels["speaker"] == point.item % 2


def test_a_frame_is_a_cell_of_the_label_and_an_item_the_mean_of_all() -> None:
    frames = points("phone", "frame")
    assert len(frames.points) == 6 + 6 + 6 + 6 - 4  # unknown ones are left out
    assert {point.stop - point.start for point in frames.points} == {4}
    whole = points("speaker", "item")
    assert sorted((p.item, p.start, p.stop) for p in whole.points) == [(n, 0, 24) for n in range(4)]
    means = {p.item: float(f) for p, f in zip(whole.points, whole.features[0], strict=True)}
    assert means[2] == 22.0
    over_items = points("speaker", "frame")  # no grid of its own: that of the deepest frames
    assert max(point.stop - point.start for point in over_items.points) == 2


def test_points_are_drawn_by_the_seed_up_to_the_limit() -> None:
    first, again, other = (points("phone", "segment", 5, seed=seed) for seed in (0, 0, 1))
    assert first.points == again.points
    assert first.points != other.points
    assert len(first.points) == len(first.features[0]) == 5
    assert {p.item for p in points("speaker", "item", fraction=0.75, seed=3).points} < {0, 1, 2, 3}


def test_what_cannot_be_shown_is_said() -> None:
    assert unit_of(DATA, "phone", frames=False) == "segment"
    assert unit_of(DATA, "speaker", frames=False) == "item"
    with pytest.raises(UsageError, match="no label 'vowel'"):
        unit_of(DATA, "vowel", frames=False)
    with pytest.raises(UsageError, match="no time axis"):
        unit_of(DataSpec(1, (8, 8), ("height", "width"), None, {"class": SPEAKER}, {"test": 4}), "class", frames=True)
    with pytest.raises(DataError, match="too little of speaker"):
        points("speaker", "item", fraction=0.25)
