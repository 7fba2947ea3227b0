"""The recipes of Deep InfoMax say what was published: the map that is local, measures, optimizer and length."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny
from infomax_cli.core.api import DataSpec
from infomax_cli.core.blocks import describe_blocks, partition
from infomax_cli.core.build import build_encoder
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import Recipe, differences, parse, read_recipe
from infomax_cli.recipe_files import find_recipe, list_recipes
from infomax_plugins.encoders.dim_convnet import CONFIGS, DIMConvNet
from infomax_plugins.losses.local_dim import LocalDIM

# configuration, measure, size of the scoring networks, weight of the prior, epochs
PUBLISHED = {
    "dim": ("basic32x32", "jsd", 2048, 0.1, 1000),
    "dim-cifar10": ("basic32x32", "jsd", 2048, 0.1, 1000),
    "dim-cifar10-nce": ("basic32x32", "nce", 2048, 0.1, 1000),
    "dim-cifar10-dv": ("basic32x32", "dv", 2048, 0.1, 1000),
    "dim-cifar100": ("basic32x32", "jsd", 2048, 0.1, 1000),
    "dim-tiny-imagenet": ("alex64x64", "jsd", 2048, 0.1, 1000),
    "dim-stl10": ("foldmultialex64x64", "nce", 1024, None, 200),
}
END_TO_END = [listed.name for listed in list_recipes() if listed.name.startswith("dim") and "greedy" not in listed.name]


def recipe(name: str) -> Recipe:
    return parse(read_recipe(find_recipe(name)), name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_the_published_experiments(name: str) -> None:
    found = recipe(name)
    config, measure, units, scale, epochs = PUBLISHED[name]
    assert (found.encoder.options, found.cut) == ({"config": config}, "none")
    local, *prior = found.losses
    assert (local.name, local.options["measure"], local.options.get("units", 2048)) == ("local_dim", measure, units)
    assert [(loss.name, loss.options) for loss in prior] == ([("prior_matching", {"scale": scale})] if scale else [])
    train = found.train
    assert (train.optimizer, train.lr, train.betas, train.batch) == ("adam", 1e-4, [0.5, 0.999], 64)
    assert (train.epochs, train.weight_decay, train.warmup, train.schedule) == (epochs, 0.0, 0, "constant")


@pytest.mark.parametrize("name", END_TO_END)
def test_what_is_compared_are_the_published_local_map_and_global(name: str) -> None:
    raw = read_recipe(find_recipe(name))
    narrow = [4] * len(CONFIGS[raw["encoder"]["config"]].stages)
    found = parse(apply_overrides(raw, [f"encoder.widths={narrow}"]), name)
    encoder = build_encoder(found, tiny.CPU)
    assert isinstance(encoder, DIMConvNet)
    heard = "spectrogram" in found.encoder.options
    grid, axes = ((10240,), ("time",)) if heard else ((encoder.side, encoder.side), ("height", "width"))
    data = DataSpec(getattr(encoder.input, "channels", 1), grid, axes, None, {}, {})  # sound has one
    (spec,) = describe_blocks(encoder, partition(len(encoder.stages), "none"), data, 1)
    loss = LocalDIM(spec, **{**found.losses[0].options, "units": 8})
    assert loss.local.index == encoder.local_stage + 1  # the block's input comes first
    assert (loss.summary.index, loss.summary.pooled) == (len(encoder.stages), False)


def test_the_bare_name_is_the_experiment_on_cifar10() -> None:
    assert differences(replace(recipe("dim"), name="dim-cifar10"), recipe("dim-cifar10")) == []
