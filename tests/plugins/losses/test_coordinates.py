"""The coordinate task equals a loop over locations and axes, on any grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dim_blocks import (
    BATCH,
    assert_learns_in_float32,
    block_spec,
    features,
    gradients,
    image_blocks,
    random_features,
    total,
    train,
)
from infomax_cli.core.api import BlockSpec, DoesNotFit, InfomaxError
from infomax_plugins.losses.coordinates import Coordinates

GRIDS = [(3, 3), (2, 4), (5,), (1, 4), (2, 3, 2)]


def make_loss(spec: BlockSpec, **options: Any) -> Coordinates:
    torch.manual_seed(1)
    return Coordinates(spec, **options).double()


def places(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The coordinates of all positions, the last axis running fastest."""
    if not grid:
        return [()]
    return [(first, *rest) for first in range(grid[0]) for rest in places(grid[1:])]


def coordinates_in_a_loop(loss: Coordinates, local_map: Tensor, vector: Tensor) -> Tensor:
    """Cross-entropy of every coordinate of every location, summed over axes, averaged over locations."""
    grid = tuple(local_map.shape[2:])
    beside = torch.stack(
        [
            torch.stack([torch.cat([local_map[(b, slice(None), *place)], vector[b]]) for place in places(grid)])
            for b in range(len(local_map))
        ]
    )
    logits = loss.net(beside)  # (B, L, sum of the grid)
    terms = []
    for b in range(len(local_map)):
        for position, place in enumerate(places(grid)):
            start = 0
            for length, where in zip(grid, place, strict=True):
                along = logits[b, position, start : start + length]
                terms.append(-torch.log(torch.exp(along[where]) / torch.exp(along).sum()))
                start += length
    return torch.stack(terms).sum() * len(grid) / len(terms)


@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_gradients_are_those_of_a_loop(grid: tuple[int, ...]) -> None:
    spec = block_spec((2, grid), (4, grid), (3, (1,) * len(grid)))
    loss, seen = make_loss(spec), random_features(spec)
    found = total(loss([seen], BATCH))
    expected = coordinates_in_a_loop(loss, seen.maps[1], seen.maps[2].flatten(1))
    torch.testing.assert_close(found, expected)
    tensors = [*seen.maps[1:], *loss.parameters()]
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


def test_the_global_is_averaged_over_its_grid() -> None:
    for spec, options in [
        (block_spec((2, (6,)), (4, (6,))), {}),
        (block_spec((2, (4, 4)), (4, (3, 3)), (5, (2, 2))), {"local_map": 1, "global_map": 2}),
    ]:
        loss, seen = make_loss(spec, **options), random_features(spec)
        vector = seen.maps[-1].flatten(2).mean(2)
        torch.testing.assert_close(total(loss([seen], BATCH)), coordinates_in_a_loop(loss, seen.maps[1], vector))


def test_of_two_views_each_is_told_with_the_global_of_the_other() -> None:
    spec = block_spec((2, (2, 3)), (4, (2, 3)), (3, (1, 1)))
    loss, one, two = make_loss(spec), random_features(spec, seed=1), random_features(spec, seed=2)
    expected = (
        coordinates_in_a_loop(loss, one.maps[1], two.maps[2].flatten(1))
        + coordinates_in_a_loop(loss, two.maps[1], one.maps[2].flatten(1))
    ) / 2
    torch.testing.assert_close(total(loss([one, two], BATCH)), expected)


def test_a_map_that_holds_its_coordinates_is_told_without_error() -> None:
    spec = block_spec((2, (3, 4)), (7, (3, 4)), (1, (1, 1)))
    loss = Coordinates(spec)
    codes = torch.stack([torch.cat([torch.eye(3)[y], torch.eye(4)[x]]) for y, x in places((3, 4))])
    seen = random_features(spec, items=2, dtype=torch.float32)
    maps = (seen.maps[0], codes.t().view(1, 7, 3, 4).repeat(2, 1, 1, 1).requires_grad_(), seen.maps[2])
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        output = loss([features(*maps)], BATCH)
        total(output).backward()
        optimizer.step()
    assert float(output.watched["accuracy"]) == 1.0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_one_item_is_enough_and_it_runs_under_autocast(half: torch.dtype) -> None:
    spec = block_spec((2, (4, 4)), (4, (4, 4)), (3, (1, 1)))
    loss, seen = Coordinates(spec), random_features(spec, items=1, dtype=torch.float32)
    with torch.autocast("cpu", half):
        value = total(loss([seen], BATCH))
    assert_learns_in_float32(value, loss)


def test_a_small_encoder_learns() -> None:
    torch.manual_seed(0)
    (block,) = image_blocks([(Coordinates, {})])
    first, last = train([block], steps=15, items=16)
    assert last["block0/Coordinates"] < first["block0/Coordinates"]
    assert last["block0/Coordinates/accuracy"] > first["block0/Coordinates/accuracy"]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (block_spec((9, (1, 1)), (5, (1, 1))), {}, "block 2 has none of more than one position"),
        (block_spec((3, (4, 4)), (5, (1, 1))), {"local_map": 1}, "map 1 of block 2 has one position"),
        (block_spec((3, (4, 4)), (5, (1, 1))), {"local_map": 0, "global_map": 0}, "nothing but the input"),
        (block_spec((3, (4, 4)), (5, (1, 1))), {"local_map": "7x7"}, "coordinates: block 2 has no map of 7x7"),
    ],
)
def test_what_does_not_fit_is_refused(spec: BlockSpec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DoesNotFit, match=message):
        Coordinates(spec, **options)


def test_a_map_of_another_size_is_refused_in_one_line() -> None:
    loss = make_loss(block_spec((2, (3, 3)), (4, (3, 3)), (3, (1, 1))))
    with pytest.raises(InfomaxError, match="built for a map of 3x3, but this batch makes one of 3x2"):
        loss([random_features(block_spec((2, (3, 3)), (4, (3, 2)), (3, (1, 1))))], BATCH)
