"""Views, batches, and the order in which items come."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import tiny
from infomax_cli.core.api import Batch, DataError, DataSpec, InfomaxError, Item, PluginError, numpy_generator
from infomax_cli.core.augment import AUGMENTATIONS, PUBLISHED, resolve_views
from infomax_cli.core.build import resolve
from infomax_cli.core.views import EpochBatches, ViewedItem, ViewedSplit, ViewMaker, collate, validation_batches
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import ViewOptions, parse


def epoch(batches: EpochBatches, number: int) -> list[list[tuple[int, int]]]:
    return list(batches)[number * batches.per_epoch : (number + 1) * batches.per_epoch]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (13, 4), (3, 4), (1, 1), (5, 1)])
def test_an_epoch_is_every_item_once_but_for_an_incomplete_last_batch(size: int, batch: int) -> None:
    batches = EpochBatches(size, batch, seed=0, stop=100)
    for number in range(3):
        items = [index for keys in epoch(batches, number) for index, _ in keys]
        assert len(items) == len(set(items)) == (size // batch * batch or size)
        assert set(items) <= set(range(size))


def test_each_epoch_is_shuffled_anew_and_leaves_out_others() -> None:
    batches = EpochBatches(13, 4, seed=0, stop=300)
    orders = [[index for keys in epoch(batches, number) for index, _ in keys] for number in range(100)]
    assert len({tuple(order) for order in orders}) == 100
    assert {index for order in orders for index in set(range(13)) - set(order)} == set(range(13))


def test_no_two_item_seeds_are_alike_and_another_seed_gives_others() -> None:
    seeds = [seed for keys in EpochBatches(12, 4, seed=0, stop=30) for _, seed in keys]
    assert len(set(seeds)) == len(seeds) == 120
    assert not set(seeds) & {seed for keys in EpochBatches(12, 4, seed=1, stop=30) for _, seed in keys}


@pytest.mark.parametrize("start", [0, 1, 3, 7, 29])
def test_iteration_may_begin_anywhere(start: int) -> None:
    groups = [0] * 5 + [1] * 8
    whole = list(EpochBatches(13, 4, seed=3, stop=30, groups=groups))
    part = EpochBatches(13, 4, seed=3, start=start, stop=30, groups=groups)
    assert list(part) == whole[start:]
    assert len(part) == 30 - start


def test_with_groups_every_batch_is_of_one_value() -> None:
    groups = [0, 1, 2] * 9 + [3]  # nine of each, and a single one, which makes a batch of its own
    batches = EpochBatches(28, 4, seed=0, stop=100, groups=groups)
    assert batches.per_epoch == 2 * 3 + 1
    for number in range(3):
        keys = epoch(batches, number)
        assert all(len({groups[index] for index, _ in batch}) == 1 for batch in keys)
        assert Counter(groups[batch[0][0]] for batch in keys) == {0: 2, 1: 2, 2: 2, 3: 1}
        items = [index for batch in keys for index, _ in batch]
        assert len(items) == len(set(items)) == 25
    values = [[groups[batch[0][0]] for batch in epoch(batches, number)] for number in range(8)]
    assert len({tuple(order) for order in values}) > 1  # the groups take turns in no fixed order


def test_batches_of_a_speaker_come_from_the_data(here: Path) -> None:
    made = tiny.trainer("train.batches_of=speaker", "train.epochs=2")
    seen = [batch.labels["speaker"].unique().tolist() for batch in made._train_batches()]
    assert all(len(speakers) == 1 for speakers in seen)
    assert Counter(speaker for (speaker,) in seen) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize(
    ("size", "batch", "lengths"), [(9, 4, {3}), (8, 4, {4}), (10, 4, {3, 4}), (2, 8, {2}), (1, 4, {1})]
)
def test_validation_takes_every_item_once_in_even_batches(size: int, batch: int, lengths: set[int]) -> None:
    batches = validation_batches(size, batch, seed=0)
    assert [index for keys in batches for index, _ in keys] == list(range(size))
    assert {len(keys) for keys in batches} == lengths
    assert batches == validation_batches(size, batch, seed=0)
    assert [seed for keys in batches for _, seed in keys] == [
        seed for keys in validation_batches(size, batch + 1, seed=0) for _, seed in keys
    ]


# --- views -----------------------------------------------------------------------------------------------------------


DATA = tiny.Tones().describe(Path())
IMAGES = DataSpec(3, (12, 16), ("height", "width"), None, {}, {"train": 1})


def maker(data: DataSpec = DATA, **options: Any) -> ViewMaker:
    return ViewMaker.of(resolve_views(ViewOptions(**options), "my.yaml"), data)


def views_of(*augment: Any, count: int = 2, shared: tuple[Any, ...] = (), seed: int = 7) -> tuple[torch.Tensor, ...]:
    make = maker(count=count, augment=list(augment), shared=list(shared))
    item = ViewedSplit(tiny.Tones().split(Path(), "train"), make)[3, seed]
    assert isinstance(item, ViewedItem)
    return item.views


def test_views_are_drawn_apart_unless_shared() -> None:
    raw, same = views_of()
    assert torch.equal(raw, same)
    first, second = views_of("noise")
    assert not torch.equal(first, second)
    assert not torch.equal(first, raw)
    one, other = views_of(shared=("noise",))
    assert torch.equal(one, other)
    assert not torch.equal(one, raw)


def test_what_is_shared_is_drawn_once_and_not_again_for_each_view() -> None:
    both = views_of("gain", "noise", shared=("noise",))
    alone = views_of(shared=("noise",))[0]
    for view in both:
        ratio = view / alone
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    assert not torch.equal(*both)


def test_a_name_alone_is_a_list_of_one() -> None:
    views = maker(count=2, augment="noise")(tiny.TonesSplit(12, "")[3, 7].input, 7)
    assert all(map(torch.equal, views, views_of("noise")))


def test_what_was_trained_before_there_were_options_is_trained_on_the_same() -> None:
    """Seeds and sums of gain, noise and flip as they were when each was a plain function."""
    raw = tiny.TonesSplit(12, "")[3, 7].input
    for view, made in enumerate(views_of("flip", "noise", shared=("gain",))):
        x = raw * 10 ** (numpy_generator(7, "shared", "gain").uniform(-6, 6) / 20)
        x = x.flip(-1) if numpy_generator(7, "view", view, "flip").random() < 0.5 else x
        random = numpy_generator(7, "view", view, "noise")
        level = x.square().mean().sqrt() * 10 ** (-random.uniform(5, 30) / 20)
        assert torch.equal(made, x + level * torch.from_numpy(random.standard_normal((1, 3200), dtype=np.float32)))


def test_an_augmentation_named_twice_is_drawn_twice() -> None:
    raw = views_of()[0]
    once, twice = views_of("noise")[0], views_of("noise", "noise")[0]
    first, second = once - raw, twice - once
    assert abs(torch.corrcoef(torch.cat([first, second]))[0, 1]) < 0.1
    assert not torch.equal(twice, views_of("noise", "noise", seed=8)[0])


def test_an_entry_of_both_lists_is_shared_only_with_the_same_options() -> None:
    plain, loud = "noise", {"name": "noise", "snr": -10}
    assert torch.equal(*views_of({"name": "noise", "snr": [5, 30]}, shared=(plain,)))
    assert not torch.equal(*views_of(loud, shared=(plain,)))


@pytest.mark.parametrize("augment", [["noise", "gain"], ["flip", {"name": "noise", "snr": [0, 20], "p": 0.5}]])
def test_a_view_does_not_depend_on_how_many_there_are(augment: list[Any]) -> None:
    for seed in range(6):
        three = views_of(*augment, count=3, seed=seed)
        assert all(map(torch.equal, views_of(*augment, count=1, seed=seed), three))


# --- names and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"augment": "nois"}, {"augment": ["gain", "nois"]}, {"shared": ["nois"]}])
def test_an_unknown_augmentation_is_refused_with_the_closest(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="there is no augmentation 'nois'") as caught:
        maker(**options)
    assert caught.value.hint == "did you mean noise?"


@pytest.mark.parametrize(
    ("augment", "told", "hint"),
    [
        ([{"name": "noise", "snrr": 3}], "augment.0.snrr is unknown (accepted: snr, path, p)", "views.augment.0.snr?"),
        ({"name": "noise", "snrr": 3}, "views.augment.snrr is unknown", "did you mean views.augment.snr?"),
        (["gain", {"snr": 3}], "views.augment.1.name is missing", None),
        (["gain", {"name": "gain", "p": "x"}], "views.augment.1.p must be a number, not 'x'", None),
        ({"name": "gain", "decibels": [1, 2, 3]}, "must be a number or a list of 2 numbers, not [1, 2, 3]", None),
        ([{"name": "amdim-cifar", "hue": 0}], "amdim-cifar is a published set, which has no", "flip, translate"),
        (["amdim-cifa"], "there is no augmentation 'amdim-cifa'", "did you mean amdim-cifar?"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say_of_an_augmentation(augment: Any, told: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_views(ViewOptions(augment=augment), "my.yaml")
    assert caught.value.message.startswith("my.yaml: views")
    assert told in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("data", "augment", "told"),
    [
        (DATA, "color_jitter", "views: color_jitter is for images, and the data is sound"),
        (DATA, "amdim-cifar", "views: translate is for images, and the data is sound"),
        (IMAGES, "pitch", "views: pitch is for sound, and the data is images"),
        (replace(IMAGES, rate=100), "gain", "views: gain is for sound, and the data is height by width"),
        (IMAGES, {"name": "flip", "p": 1.5}, "views: flip: p is 1.5, but a probability is between 0 and 1"),
        (IMAGES, {"name": "color_jitter", "hue": 0.6}, "views: color_jitter: hue is 0.6, but must be between"),
        (DATA, {"name": "noise", "snr": [9, 3]}, "views: noise: snr is [9, 3], but takes a number or two in order"),
        (replace(DATA, rate=None), "reverb", "views: reverb: the data does not tell how many samples a second"),
        (DATA, {"name": "noise", "path": "/nowhere"}, "views: there are no recordings below /nowhere"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused_before_there_are_items(data: DataSpec, augment: Any, told: str) -> None:
    with pytest.raises(InfomaxError) as caught:
        maker(data, augment=augment)
    assert caught.value.message.startswith(told)


def test_the_resolved_recipe_tells_every_option_and_is_read_back_the_same() -> None:
    made = tiny.experiment("views={count: 2, augment: [gain, {name: noise, snr: 3}], shared: [flip]}").recipe
    gain = {"name": "gain", "decibels": [-6.0, 6.0], "p": 1.0}
    assert made.to_dict()["views"] == {
        "count": 2,
        "augment": [gain, {"name": "noise", "snr": 3.0, "path": None, "p": 1.0}],
        "shared": [{"name": "flip", "p": 0.5}],
    }
    assert resolve(parse(made.to_dict(), "again")).views == made.views


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kind in AUGMENTATIONS.items() if kind.medium != "images"])
def test_augmentations_of_sound_keep_shape_and_type(name: str) -> None:
    x = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    check_augmentation(DATA, name, x)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name, kind in AUGMENTATIONS.items() if kind.medium != "sound"])
def test_augmentations_of_images_keep_channels_and_type(name: str, channels: int) -> None:
    x = torch.rand(channels, 21, 17, generator=torch.Generator().manual_seed(0))
    varies = channels == 3 or name != "grayscale"
    for view in check_augmentation(replace(IMAGES, channels=channels), name, x, varies=varies):
        assert 0 <= view.min() <= view.max() <= 1


def check_augmentation(data: DataSpec, name: str, x: torch.Tensor, *, varies: bool = True) -> list[torch.Tensor]:
    """Views of `x`, found to be finite floats that depend on the seed alone, with `x` left as it was."""
    before, make = x.clone(), maker(data, augment=name)
    views = [make(x, seed)[0] for seed in (1, 1, *range(2, 12))]
    assert torch.equal(x, before)
    grid = x.shape[1:] if data is DATA else data.grid
    assert all(y.shape == (len(x), *grid) and y.dtype == torch.float32 and y.isfinite().all() for y in views)
    assert torch.equal(views[0], views[1])
    assert any(not torch.equal(views[0], y) for y in views[2:]) == varies
    assert make(torch.zeros_like(x), 0)[0].isfinite().all()
    return views


def test_images_of_any_size_come_to_the_size_that_the_encoder_sees() -> None:
    make = maker(IMAGES, count=2, augment=["flip"])
    for size in ((12, 16), (40, 30), (5, 5), (1, 1)):
        assert [view.shape for view in make(torch.rand(3, *size), 0)] == [(3, 12, 16)] * 2


def test_sound_may_not_change_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AUGMENTATIONS["gain"], "apply", lambda self, x, random: x[:, 1:])
    error = ViewedSplit(tiny.Tones().split(Path(), "train"), maker(augment="gain"))[0, 0]
    assert isinstance(error, InfomaxError)
    assert error.message.startswith("views: the augmentations make (1, 3199) of (1, 3200): only images may")


class Photos:
    """Images of all sizes."""

    def __len__(self) -> int:
        return 8

    def item_labels(self, name: str) -> list[int]:
        return []

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        random = torch.Generator().manual_seed(key[0])
        return Item(torch.rand(3, 20 + key[0], 30, generator=random), {}, str(key[0]))


@pytest.mark.parametrize("augment", ["amdim-cifar", "amdim-stl10", "gim-vision"])
def test_views_of_images_are_the_same_from_any_worker(augment: str) -> None:
    split = ViewedSplit(Photos(), maker(IMAGES, count=2, augment=augment))
    keys = [[(index, 100 + index) for index in range(first, first + 4)] for first in (0, 4)]
    here, there = (
        list(DataLoader(split, batch_sampler=keys, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    )
    for one, other in zip(here, there, strict=True):
        assert all(map(torch.equal, one.views, other.views))
        assert one.views[0].shape == (4, 3, *IMAGES.grid)
        assert not torch.equal(*one.views)


# --- published sets --------------------------------------------------------------------------------------------------


def test_a_published_set_says_every_number_itself() -> None:
    """So that no change of a default changes it."""
    for published in PUBLISHED.values():
        for part in (*published.augment, *published.shared):
            assert resolve_views(ViewOptions(augment=[dict(part)]), "x").augment == [part]


def test_amdim_flips_both_views_or_none_and_draws_the_rest_apart() -> None:
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32).contiguous()
    data = replace(IMAGES, grid=(32, 32))
    flipped = []
    for seed in range(40):
        one, two = maker(data, count=2, augment="amdim-cifar")(ramp, seed)
        falls = [bool(view.mean((0, 1))[4:12].mean() > view.mean((0, 1))[20:28].mean()) for view in (one, two)]
        assert falls[0] == falls[1]
        flipped.append(falls[0])
        assert not torch.equal(one, two)
    assert 8 < sum(flipped) < 32


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_set_may_be_shared_as_a_whole_and_joined_by_others(name: str) -> None:
    x = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*maker(IMAGES, count=2, shared=name)(x, 1))
    alone = maker(IMAGES, count=2, augment=[name], shared=["flip"])(x, 1)
    grey = maker(IMAGES, count=2, augment=[name, {"name": "grayscale", "p": 1}], shared=["flip"])(x, 1)
    for view, other in zip(alone, grey, strict=True):
        luma = (view * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(0)
        torch.testing.assert_close(other, luma.expand(3, -1, -1), rtol=0, atol=1e-5)


def test_a_flip_that_the_set_shares_is_not_drawn_again_where_the_recipe_shares_it_too() -> None:
    steps = maker(IMAGES, augment="amdim-stl10", shared=["flip"]).steps
    assert [step.key for step in steps.shared] == [("flip",)]
    assert [step.key for step in steps.own] == [("random_resized_crop",), ("color_jitter",), ("grayscale",)]
    gim = maker(IMAGES, augment="gim-vision").steps
    assert (gim.shared, [step.key for step in gim.own]) == ((), [("random_crop",), ("flip",)])
    assert [step.key for step in maker(IMAGES, augment="gim-vision", shared="flip").steps.own] == [("random_crop",)]


# --- from items to a batch -------------------------------------------------------------------------------------------


def item(length: int = 4, **labels: int | torch.Tensor) -> ViewedItem:
    return ViewedItem((torch.zeros(1, length), torch.ones(1, length)), labels, "a")


def test_items_become_a_batch() -> None:
    batch = collate([item(speaker=1, phone=torch.tensor([1, -1])), item(speaker=2, phone=torch.tensor([0, 3]))])
    assert isinstance(batch, Batch)
    assert [view.shape for view in batch.views] == [(2, 1, 4), (2, 1, 4)]
    assert batch.labels["speaker"].tolist() == [1, 2]
    assert batch.labels["phone"].tolist() == [[1, -1], [0, 3]]
    assert batch.labels["speaker"].dtype == torch.int64


@pytest.mark.parametrize(
    "items",
    [[item(4), item(5)], [item(speaker=1), item()], [item(phone=torch.zeros(2)), item(phone=torch.zeros(3))],
     [item(speaker=1), item(speaker=None)]],  # type: ignore[arg-type]
)  # fmt: skip
def test_items_that_make_no_batch_are_an_error_handed_over(items: list[ViewedItem]) -> None:
    error = collate(items)
    assert isinstance(error, PluginError)
    assert "do not make a batch" in error.message


def test_the_first_error_among_the_items_is_handed_over_whole() -> None:
    error = DataError("what", "what to do")
    given = collate([item(), error, DataError("later")])
    assert given is error
    back = pickle.loads(pickle.dumps(given))  # as it comes from a worker
    assert (type(back), back.message, back.hint) == (DataError, "what", "what to do")


@pytest.mark.parametrize(("size", "batch", "sizes"), [(31, 2, {2, 3}), (9, 4, {3}), (1, 8, {1}), (3, 1, {1})])
def test_a_validation_batch_is_of_one_item_only_where_it_must_be(size: int, batch: int, sizes: set[int]) -> None:
    batches = validation_batches(size, batch, seed=0)
    assert {len(keys) for keys in batches} == sizes
    assert [index for keys in batches for index, _ in keys] == list(range(size))


def test_a_batch_knows_which_labels_any_of_its_items_has() -> None:
    items = [
        ViewedItem((torch.zeros(1, 4),), {"a": -1, "b": torch.tensor([-1, value])}, str(value)) for value in (-1, 3)
    ]
    batch = collate(items)
    assert isinstance(batch, Batch)
    assert (batch.knows("a"), batch.knows("b")) == (False, True)
    moved = Batch(batch.views, batch.labels, batch.ids)
    assert (moved.knows("a"), moved.knows("b")) == (False, True)
