"""What frozen blocks make of a fixed number of crops of every item: computed once, then read from a mapped file.

A block that is trained alone sees the same inputs again and again. They are kept on disk as they lie in memory, so that
training on them equals training without.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from infomax_cli.core.api import Batch
from infomax_cli.core.blocks import Block, prepare
from infomax_cli.core.build import Experiment
from infomax_cli.core.checkpoint import load_checkpoint, save_checkpoint
from infomax_cli.core.device import autocast
from infomax_cli.core.views import ViewedItem, crop_seed
from infomax_cli.errors import CheckpointError, UsageError

_MARGIN = 2**28  # bytes left free on the disk, for the run's own checkpoints
_TOO_LARGE = "take fewer train.crops, a deeper block, or --amp bf16, which halves it; or leave out train.cache"


@dataclass(frozen=True)
class Frozen:
    """The blocks below the one that is trained: raw views to its inputs, without a graph."""

    experiment: Experiment
    device: torch.device

    def __call__(self, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        experiment = self.experiment
        with torch.no_grad(), autocast(self.device, experiment.recipe.train.amp):
            inputs = prepare(experiment.encoder, views)
            for block in self.blocks:
                inputs = block.eval().advance(inputs)
        return inputs

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.experiment.blocks[: self.experiment.recipe.train.block]


@dataclass(frozen=True)
class Plan:
    """What the cache holds: for each crop of each item, and each view of it, one map.

    A map ``(C, *grid)`` is stored with its dimensions in the `order` in which they lie in memory; `shape` is in that
    order.
    """

    items: int
    crops: int
    views: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, experiment: Experiment, device: torch.device) -> Plan:
        """Found on silence; no data is read."""
        data, recipe = experiment.data, experiment.recipe
        assert recipe.train.crops is not None
        silence = torch.zeros(recipe.train.batch, data.channels, *data.grid, device=device)
        made = Frozen(experiment, device)([silence])[0]
        order = tuple(sorted(range(1, made.dim()), key=made.stride, reverse=True))
        shape = tuple(made.shape[place] for place in order)
        return cls(data.sizes["train"], recipe.train.crops, recipe.views.count, shape, order, made.dtype)

    @property
    def rows(self) -> int:
        return self.items * self.crops

    @property
    def bytes(self) -> int:
        return self.rows * self.views * math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        maps = " x ".join(map(str, self.shape))
        return f"{self.items:,} items x {self.crops} crops x {self.views} views of {maps} {kind}: {_size(self.bytes)}"


class BlockCache:
    """The inputs of the one block that is trained, in a folder of its run. `fill` makes them unless they are there."""

    def __init__(self, experiment: Experiment, device: torch.device, folder: Path) -> None:
        self.frozen = Frozen(experiment, device)
        self.plan = Plan.of(experiment, device)
        self.folder = folder
        self.maps, self.rest = folder / "maps.bin", folder / "labels.pt"
        self._fingerprint = _fingerprint(experiment, self.plan)

    def keys(self) -> list[list[tuple[int, int]]]:
        """All crops of all items, as ``(index, item seed)``, in the order of the file and in batches."""
        options = self.frozen.experiment.recipe.train
        keys = [
            (index, crop_seed(options.seed, index, crop))
            for index in range(self.plan.items)
            for crop in range(self.plan.crops)
        ]
        return [keys[first : first + options.batch] for first in range(0, len(keys), options.batch)]

    def is_filled(self) -> bool:
        """Whether the file is whole and of this very experiment."""
        try:
            whole = self.maps.stat().st_size == self.plan.bytes
            return whole and load_checkpoint(self.rest)["fingerprint"] == self._fingerprint
        except (OSError, CheckpointError, KeyError):
            return False

    def fill(self, batches: Iterator[Batch], advance: Callable[[int], None]) -> None:
        """Write what the frozen blocks make of `batches`, those of `keys`; `advance` is told the rows done.

        Raises `UsageError` before anything is read when it would not fit on the disk.
        """
        self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.plan.bytes > (free := shutil.disk_usage(self.folder).free - _MARGIN):
            room = f"but there is room for {_size(max(0, free))} in {self.folder.parent}"
            raise UsageError(f"train.cache: the inputs of the block would take {self.plan}, {room}", _TOO_LARGE)
        labels: dict[str, list[Tensor]] = {}
        ids: list[str] = []
        try:
            with self.maps.open("wb") as file:
                for batch in batches:
                    file.write(self._stored(self.frozen(batch.to(self.frozen.device).views)).numpy().data)
                    for name, values in batch.labels.items():
                        labels.setdefault(name, []).append(values)
                    ids += batch.ids
                    advance(len(ids))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self.maps}: {error.strerror or error}", _TOO_LARGE) from error
        joined = {name: torch.cat(parts) for name, parts in labels.items()}
        save_checkpoint(self.rest, {"fingerprint": self._fingerprint, "labels": joined, "ids": ids})

    def _stored(self, maps: Sequence[Tensor]) -> Tensor:
        """As bytes, item by item and view by view."""
        views = [view.permute(0, *self.plan.order).contiguous() for view in maps]
        return torch.stack(views, 1).cpu().view(torch.uint8)

    def split(self) -> CachedSplit:
        return CachedSplit(self)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The block's inputs as the frozen blocks would hand them over, ``(B, C, *grid)``, from a batch of `split`."""
        back = [self.plan.order.index(place) + 1 for place in range(1, len(self.plan.order) + 1)]
        return tuple(view.permute(0, *back) for view in batch.views)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class CachedSplit(TorchDataset[ViewedItem]):
    """Crops as the frozen blocks made them, taken by the keys that the raw split is taken by."""

    def __init__(self, cache: BlockCache) -> None:
        rest = load_checkpoint(cache.rest)
        self.labels: Mapping[str, Tensor] = rest["labels"]
        self.ids: Sequence[str] = rest["ids"]
        self.path, self.plan, self.seed = cache.maps, cache.plan, cache.frozen.experiment.recipe.train.seed
        self._maps: Tensor | None = None  # mapped by each process when it first reads

    def __len__(self) -> int:
        return self.plan.items

    def __getitem__(self, key: tuple[int, int]) -> ViewedItem:
        index, seed = key
        crop = next(crop for crop in range(self.plan.crops) if crop_seed(self.seed, index, crop) == seed)
        row = index * self.plan.crops + crop
        labels = {name: values[row] for name, values in self.labels.items()}
        return ViewedItem(tuple(self.maps[row]), labels, self.ids[row])

    @property
    def maps(self) -> Tensor:
        if self._maps is None:
            plan = self.plan
            flat = torch.from_file(
                str(self.path), shared=False, size=plan.bytes // plan.dtype.itemsize, dtype=plan.dtype
            )
            self._maps = flat.view(plan.rows, plan.views, *plan.shape)
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # a mapping would travel to a worker as a copy


def _fingerprint(experiment: Experiment, plan: Plan) -> str:
    """Of all that the inputs depend on: data, views, the frozen weights, how they are computed."""
    recipe = experiment.recipe.to_dict()
    parts = {key: recipe[key] for key in ("data", "views", "encoder", "cut")}
    parts |= {key: recipe["train"][key] for key in ("seed", "block", "crops", "amp", "batch")}
    digest = hashlib.blake2b(json.dumps([parts, str(plan)], sort_keys=True).encode(), digest_size=16)
    for block in experiment.blocks[: experiment.recipe.train.block]:
        for tensor in block.stages.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
