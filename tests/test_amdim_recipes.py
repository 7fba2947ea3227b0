"""The recipes of AMDIM say what was published: sizes, views, optimizer and schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infomax_cli.core.schedule import rate_factor
from infomax_cli.recipe import Milestones, Recipe, differences, parse, read_recipe
from infomax_cli.recipe_files import find_recipe

# size, ndf, n_rkhs and depth of the encoder, augmentations, epochs and where the rate drops
PUBLISHED = {
    "amdim": ((32, 256, 2048, 10), "amdim-cifar", 300, [250, 280]),
    "amdim-cifar10": ((32, 256, 2048, 10), "amdim-cifar", 300, [250, 280]),
    "amdim-cifar100": ((32, 256, 2048, 10), "amdim-cifar", 300, [250, 280]),
    "amdim-stl10": ((64, 256, 2048, 10), "amdim-stl10", 300, [250, 280]),
    "amdim-imagenet": ((128, 192, 1536, 8), "amdim-imagenet", 50, [30, 45]),
    "amdim-places205": ((128, 192, 1536, 8), "amdim-imagenet", 50, [30, 45]),
}


def recipe(name: str) -> Recipe:
    return parse(read_recipe(find_recipe(name)), name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_the_published_experiments(name: str) -> None:
    found = recipe(name)
    sizes, augment, epochs, drops = PUBLISHED[name]
    assert tuple(found.encoder.options[key] for key in ("size", "ndf", "n_rkhs", "depth")) == sizes
    assert found.data.options["size"] == sizes[0]
    assert (found.views.count, found.views.augment, found.cut) == (2, augment, "none")
    assert found.losses[0].options == {}  # the published are the defaults
    watching = {"label": "class", "detach": True, "clip": 10.0, "penalty": 1e-3}
    assert [loss.options for loss in found.losses[1:]] == [watching, {**watching, "head": "amdim"}]
    train = found.train
    assert (train.optimizer, train.lr, train.betas, train.eps) == ("adam", 2e-4, [0.8, 0.999], 1e-8)
    assert (train.weight_decay, train.warmup, train.batch, train.epochs) == (1e-5, 500, 480, epochs)
    assert train.schedule == Milestones(at=drops, factor=0.2)


def test_the_rate_warms_up_over_500_steps_and_drops_twice() -> None:
    train, steps = recipe("amdim").train, 104  # of an epoch
    rates = [
        rate_factor(train, step, 300 * steps, steps)
        for step in (0, 499, 500, 250 * steps - 1, 250 * steps, 280 * steps - 1, 280 * steps)
    ]
    assert rates == pytest.approx([1 / 500, 1, 1, 1, 0.2, 0.2, 0.04])


def test_the_bare_name_is_the_experiment_on_cifar10() -> None:
    assert differences(replace(recipe("amdim"), name="amdim-cifar10"), recipe("amdim-cifar10")) == []
