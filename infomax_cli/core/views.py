"""Views: what core makes of raw items, by named augmentations, so that any method works on any dataset."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from infomax_cli.core.api import (
    Batch,
    DataSpec,
    InfomaxError,
    PluginError,
    Split,
    derive_seed,
    fit_image,
    numpy_generator,
)
from infomax_cli.core.augment import Steps, make_steps
from infomax_cli.core.augment_base import kind_of
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import ViewOptions
from infomax_cli.wording import describe_error

_REPORT = "INFOMAX_DEBUG=1 shows where; tell the authors of the dataset"


@dataclass(frozen=True)
class ViewedItem:
    """An item with its views made; what a loader's worker hands over."""

    views: tuple[Tensor, ...]
    labels: Mapping[str, int | Tensor]
    id: str


@dataclass(frozen=True)
class ViewMaker:
    """Makes `count` views of a raw item, each of the size that the encoder sees.

    Images are brought to `data.grid` after their augmentations; anything else must keep its shape.
    """

    count: int
    steps: Steps
    data: DataSpec

    @classmethod
    def of(cls, options: ViewOptions, data: DataSpec) -> ViewMaker:
        """Raises `RecipeError` where the augmentations of resolved `options` are not for such data."""
        return cls(options.count, make_steps(options, data), data)

    def __call__(self, x: Tensor, seed: int) -> tuple[Tensor, ...]:
        """The views of ``(C, *grid)``; what is random in them derives from the item's `seed`, view and augmentation."""
        given = x
        for step in self.steps.shared:
            x = step.augment(x, numpy_generator(seed, "shared", *step.key))
        views = []
        for number in range(self.count):
            view = x
            for step in self.steps.own:
                view = step.augment(view, numpy_generator(seed, "view", number, *step.key))
            views.append(self._fitted(view, given))
        return tuple(views)

    def _fitted(self, view: Tensor, given: Tensor) -> Tensor:
        if kind_of(self.data) == "images":
            height, width = self.data.grid
            return fit_image(view, (height, width))
        if view.shape != given.shape:
            raise RecipeError(
                f"views: the augmentations make {tuple(view.shape)} of {tuple(given.shape)}: only images may change "
                "their shape"
            )
        return view


class ViewedSplit(TorchDataset["ViewedItem | InfomaxError"]):
    """A split whose items, taken by ``(index, seed)``, come as views."""

    def __init__(self, split: Split, make_views: ViewMaker) -> None:
        self.split = split
        self.make_views = make_views

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> ViewedItem | InfomaxError:
        """Errors are handed over, to be raised by whoever takes the batch: a worker would wrap them in tracebacks."""
        index, seed = key
        try:
            item = self.split[index, seed]
            views = self.make_views(item.input, seed)
        except InfomaxError as error:
            return error
        except Exception as error:  # a stranger's dataset may raise anything
            told = PluginError(f"the dataset cannot read its item {index}: {describe_error(error)}", _REPORT)
            told.add_note(traceback.format_exc())  # what INFOMAX_DEBUG shows; a traceback itself cannot be handed over
            return told
        return ViewedItem(views, item.labels, item.id)


def collate(items: Sequence[ViewedItem | InfomaxError]) -> Batch | InfomaxError:
    """Items of one size to a batch, or the error that kept them from being read or stacked."""
    made = []
    for item in items:
        if isinstance(item, InfomaxError):
            return item
        made.append(item)
    return _stack(made)


def _stack(items: Sequence[ViewedItem]) -> Batch | PluginError:
    try:
        views = tuple(torch.stack(parts) for parts in zip(*(item.views for item in items), strict=True))
        labels = {name: torch.stack([torch.as_tensor(item.labels[name]) for item in items]) for name in items[0].labels}
    except (RuntimeError, KeyError, TypeError) as error:
        shapes = sorted({tuple(item.views[0].shape) for item in items})
        return PluginError(
            f"the dataset's items do not make a batch ({items[0].id} and others, inputs {shapes}): "
            f"{describe_error(error)}",
            "every item that is taken with a seed must have the same shape and labels",
        )
    labelled = frozenset(name for name, values in labels.items() if (values >= 0).any())
    return Batch(views, labels, tuple(item.id for item in items), labelled)


class EpochBatches:
    """Batches of ``(index, item seed)``, for ever, each derived from (seed, epoch, position) alone.

    An epoch is every item once, shuffled, but for an incomplete last batch. With `groups` (a value for every item) each
    batch holds items of one value. With `crops` an item's seed is one of so many (`crop_seed`), else a new one each
    time. Iteration begins at batch number `start` of the whole run and ends before `stop`.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        seed: int,
        *,
        start: int = 0,
        stop: int,
        groups: Sequence[int] | None = None,
        crops: int | None = None,
    ) -> None:
        self.batch, self.seed, self.start, self.stop, self.crops = batch, seed, start, stop, crops
        members: dict[int, list[int]] = {}
        for index in range(size):
            members.setdefault(0 if groups is None else groups[index], []).append(index)
        self.groups = [torch.tensor(group) for group in members.values()]
        self.per_epoch = sum(max(1, len(group) // batch) for group in self.groups)

    @property
    def smallest(self) -> int:
        """How many items the smallest batch has."""
        return min([self.batch, *map(len, self.groups)])

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        known, batches = -1, list[list[int]]()
        for number in range(self.start, self.stop):
            epoch, place = divmod(number, self.per_epoch)
            if epoch != known:
                known, batches = epoch, self._epoch(epoch)
            first = place * self.batch
            yield [(index, self._seed(index, epoch, first + offset)) for offset, index in enumerate(batches[place])]

    def _seed(self, index: int, epoch: int, position: int) -> int:
        drawn = derive_seed(self.seed, "item", epoch, position)
        return drawn if self.crops is None else crop_seed(self.seed, index, drawn % self.crops)

    def _epoch(self, epoch: int) -> list[list[int]]:
        random = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        batches = []
        for group in self.groups:
            shuffled = group[torch.randperm(len(group), generator=random)]
            count = max(1, len(group) // self.batch)
            batches += [part.tolist() for part in shuffled[: count * self.batch].split(self.batch)]  # type: ignore[no-untyped-call]
        order = torch.randperm(len(batches), generator=random)
        return [batches[place] for place in order.tolist()]


def crop_seed(seed: int, index: int, crop: int) -> int:
    """The item seed of one of the crops that are drawn once and for all."""
    return derive_seed(seed, "crop", index, crop)


def validation_batches(size: int, batch: int, seed: int) -> list[list[tuple[int, int]]]:
    """Every item once, in order, with a seed of its own that never changes, in batches as even as can be.

    Even, and of a single item only where there is no other or `batch` is 1, because a contrastive loss depends on its
    batch: one item would have nothing to be told from. For that a batch may be larger than `batch` by one.
    """
    keys = [(index, derive_seed(seed, "validation", index)) for index in range(size)]
    parts = math.ceil(size / batch)
    return [list(part) for part in _evenly(keys, parts if batch == 1 else max(1, min(parts, size // 2)))]


def _evenly(keys: Sequence[tuple[int, int]], parts: int) -> list[Sequence[tuple[int, int]]]:
    edges = [round(len(keys) * part / parts) for part in range(parts + 1)]
    return [keys[a:b] for a, b in pairwise(edges)]
