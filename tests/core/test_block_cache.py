"""A block trained from a cache of its inputs is trained as without, and nothing of the cache is ever taken on trust."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import tiny
from infomax_cli.core.block_cache import BlockCache, Plan
from infomax_cli.core.blocks import Block
from infomax_cli.core.trainer import Trainer
from infomax_cli.core.views import EpochBatches, crop_seed
from infomax_cli.errors import CheckpointError, RecipeError, UsageError
from infomax_cli.runs import new_run

pytestmark = pytest.mark.usefixtures("here")

SUPERVISED = "loss=[{name: infonce, steps: 3, negatives: 4}, {name: supervised, label: phone, detach: true}]"


def test_with_crops_an_item_s_seed_is_one_of_so_many() -> None:
    batches = EpochBatches(12, 4, seed=3, stop=300, crops=2)
    seeds: dict[int, set[int]] = {}
    for keys in batches:
        for index, seed in keys:
            seeds.setdefault(index, set()).add(seed)
    assert seeds == {index: {crop_seed(3, index, crop) for crop in range(2)} for index in range(12)}


@pytest.mark.parametrize(
    ("block", "overrides"),
    [
        (1, ()),
        (4, ("train.amp=bf16", "encoder.norm=batch")),
        (5, ("views={count: 2, augment: [gain]}", "train.accumulate=2", "train.workers=1", SUPERVISED)),
    ],
)
def test_training_from_the_cache_equals_training_without(
    block: int, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    _, joint = tiny.train(tmp_path, *overrides, "train.steps=2")
    alone = (f"train.block={block}", "train.crops=2", *overrides)
    uncached, one = tiny.train(tmp_path, *alone, source=joint)
    cached, other = tiny.train(tmp_path, *alone, "train.cache=true", source=joint)
    before, after = tiny.encoder_weights(uncached), tiny.encoder_weights(cached)
    assert tiny.same(before, after)
    assert tiny.same(uncached.blocks[block].losses.state_dict(), cached.blocks[block].losses.state_dict())
    assert one.metrics.read_bytes() == other.metrics.read_bytes()
    assert not (other.path / "block-inputs").exists()  # it has served


def test_frozen_blocks_are_run_once_a_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    advance = Block.advance

    def counting(self: Block, inputs: Any) -> Any:
        ran.append(len(inputs[0]))
        return advance(self, inputs)

    monkeypatch.setattr(Block, "advance", counting)
    monkeypatch.setattr(Trainer, "_validate", lambda self, *_: setattr(self, "awaits_validation", False))
    made = tiny.trainer("train.block=1", "train.crops=3", "train.cache=true", "train.steps=40")
    display = tiny.Silent()
    made.train(new_run(tmp_path, "tiny"), display)
    rows = made.experiment.data.sizes["train"] * 3
    assert sum(ran) == rows + made.options.batch  # and once to find out how large the maps are
    assert display.prepared[-1] == rows
    assert len(display.steps) == 40


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def test_what_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.trainer("train.block=1", "train.crops=3", "train.cache=true")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(2**40, 2**40, 2**28 + 5))
    monkeypatch.setattr(type(made.split), "__getitem__", lambda *_: pytest.fail("an item was read"))
    run = new_run(tmp_path, "tiny")
    with pytest.raises(UsageError, match=r"27 items x 3 crops x 1 views of 639 x 6 .* room for 0.0 MB") as told:
        made.train(run, tiny.Silent())
    assert "train.crops" in str(told.value.hint)


def test_the_size_is_known_beforehand(tmp_path: Path) -> None:
    made = tiny.trainer("train.block=2", "train.crops=2", "train.cache=true", "views={count: 2}")
    plan = Plan.of(made.experiment, tiny.CPU)
    assert (plan.items, plan.crops, plan.views, plan.dtype) == (27, 2, 2, torch.float32)
    cache = BlockCache(made.experiment, tiny.CPU, tmp_path / "cache")
    cache.fill(made._load(made._viewed(made.split), cache.keys()), lambda rows: None)
    assert cache.maps.stat().st_size == plan.bytes
    assert cache.is_filled()


@pytest.mark.parametrize("harm", ["cut", "relabelled", "other weights", "other seed"])
def test_a_cache_that_is_not_whole_or_of_another_run_is_made_anew(harm: str, tmp_path: Path) -> None:
    def cache_of(*overrides: str) -> BlockCache:
        made = tiny.trainer("train.block=2", "train.crops=2", "train.cache=true", *overrides)
        cache = BlockCache(made.experiment, tiny.CPU, tmp_path / "cache")
        if not cache.is_filled():
            cache.fill(made._load(made._viewed(made.split), cache.keys()), lambda rows: None)
            return cache
        pytest.fail("it was taken on trust")

    cache = cache_of()
    overrides: tuple[str, ...] = ()
    if harm == "cut":
        with cache.maps.open("r+b") as file:
            file.truncate(100)
    elif harm == "relabelled":
        cache.rest.write_bytes(b"nonsense")
    elif harm == "other weights":
        overrides = ("encoder.norm=channel",)
    else:
        overrides = ("train.seed=7",)
    cache_of(*overrides)


def test_what_is_drawn_anew_each_time_is_not_cached() -> None:
    with pytest.raises(RecipeError, match="the frozen blocks draw anew"):
        tiny.trainer("train.block=1", "train.crops=3", "train.cache=true", "sampling={eval: sample}")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.trainer("train.block=1", "train.crops=3", "train.cache=true")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    run = new_run(tmp_path, "tiny")
    with pytest.raises(CheckpointError, match=r"cannot write .*maps\.bin: No space left on device"):
        made.train(run, tiny.Silent())
