"""Views, batches, and the order in which items come."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from infomax_cli.core.api import Batch, DataError, PluginError
from infomax_cli.core.views import AUGMENTATIONS, EpochBatches, ViewedItem, ViewedSplit, collate, validation_batches
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import ViewOptions


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


def views_of(*augment: str, count: int = 2, shared: tuple[str, ...] = (), seed: int = 7) -> tuple[torch.Tensor, ...]:
    options = ViewOptions(count=count, augment=list(augment), shared=list(shared))
    item = ViewedSplit(tiny.Tones().split(Path(), "train"), options)[3, seed]
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
    item = ViewedSplit(tiny.Tones().split(Path(), "train"), ViewOptions(count=2, augment="noise"))[3, 7]
    assert isinstance(item, ViewedItem)
    assert all(map(torch.equal, item.views, views_of("noise")))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_and_type_and_depend_on_their_generator_alone(name: str) -> None:
    x = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    made = [AUGMENTATIONS[name](x, np.random.default_rng(seed)) for seed in (1, 1, *range(2, 12))]
    assert all(y.shape == x.shape and y.dtype == torch.float32 and y.isfinite().all() for y in made)
    assert torch.equal(made[0], made[1])
    assert any(not torch.equal(made[0], y) for y in made[2:])
    assert AUGMENTATIONS[name](torch.zeros(1, 800), np.random.default_rng(0)).isfinite().all()


@pytest.mark.parametrize("options", [{"augment": "nois"}, {"augment": ["gain", "nois"]}, {"shared": ["nois"]}])
def test_an_unknown_augmentation_is_refused_with_the_closest(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="there is no augmentation 'nois'") as caught:
        ViewedSplit(tiny.Tones().split(Path(), "train"), ViewOptions(**options))  # type: ignore[arg-type]
    assert caught.value.hint == "did you mean noise?"


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
