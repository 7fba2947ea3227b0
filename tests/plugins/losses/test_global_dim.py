"""Global Deep InfoMax equals a loop over pairs of items, with a trunk of its own below the local map."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dim_blocks import BATCH, block_spec, features, gradients, image_blocks, random_features, total, train
from infomax_cli.core.api import BlockSpec, DoesNotFit, InfomaxError
from infomax_plugins.losses._divergences import Measure
from infomax_plugins.losses.global_dim import GlobalDIM

MEASURES: tuple[Measure, ...] = get_args(Measure)
IMAGE = block_spec((3, (12, 12)), (4, (6, 5)), (5, (1, 1)))
SEVERAL = block_spec((3, (12, 12)), (4, (6, 5)), (5, (1, 2)))


def make_loss(spec: BlockSpec = IMAGE, **options: Any) -> GlobalDIM:
    torch.manual_seed(1)
    return GlobalDIM(spec, **{"units": 7, "local_map": 1} | options).double()


def jsd_in_a_loop(loss: GlobalDIM, local_map: Tensor, global_map: Tensor) -> Tensor:
    """Of each item's vector from its local map with each global of each item, the published divergence."""
    assert isinstance(loss.global_net, nn.Linear)
    weight, bias = loss.global_net.weight, loss.global_net.bias
    vectors = loss.local_net(local_map)
    positives, negatives = [], []
    for i in range(len(vectors)):
        for j in range(len(vectors)):
            for place in global_map[j].flatten(1).t():
                score = vectors[i] @ (weight @ place + bias)
                if i == j:
                    positives.append(math.log(2) - torch.log(1 + torch.exp(-score)))
                else:
                    negatives.append(torch.log(1 + torch.exp(score)) - math.log(2))
    return torch.stack(negatives).mean() - torch.stack(positives).mean()


@pytest.mark.parametrize("spec", [IMAGE, SEVERAL], ids=["one_global", "several_globals"])
def test_values_and_gradients_are_those_of_a_loop(spec: BlockSpec) -> None:
    loss, seen = make_loss(spec, global_map=2), random_features(spec)
    found = total(loss([seen], BATCH))
    expected = jsd_in_a_loop(loss, seen.maps[1], seen.maps[2])
    torch.testing.assert_close(found, expected)
    tensors = [*seen.maps[1:], *loss.parameters()]
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


def test_of_two_views_each_is_held_against_the_other() -> None:
    loss, one, two = make_loss(), random_features(IMAGE, seed=1), random_features(IMAGE, seed=2)
    found = total(loss([one, two], BATCH))
    expected = (jsd_in_a_loop(loss, one.maps[1], two.maps[2]) + jsd_in_a_loop(loss, two.maps[1], one.maps[2])) / 2
    torch.testing.assert_close(found, expected)
    tensors = [*one.maps[1:], *two.maps[1:], *loss.parameters()]
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


def test_the_trunk_reads_the_local_map_and_not_what_the_encoder_made_it_of() -> None:
    spec = block_spec((3, (16, 16)), (64, (8, 8)), (128, (4, 4)), (6, (1, 1)))
    loss = GlobalDIM(spec, local_map="8x8", units=16)
    shapes = [tuple(p.shape) for p in loss.parameters() if p.ndim > 1]
    assert shapes == [(128, 64, 4, 4), (1024, 128 * 4 * 4), (16, 1024), (16, 6)]


@pytest.mark.parametrize("grid", [(20,), (5, 12), (3, 3)])
def test_without_a_vector_the_global_is_the_mean_of_the_last_map(grid: tuple[int, ...]) -> None:
    spec = block_spec((1, grid), (4, grid))
    loss, seen = make_loss(spec), random_features(spec)
    pooled = seen.maps[1].flatten(2).mean(2, keepdim=True)
    torch.testing.assert_close(total(loss([seen], BATCH)), jsd_in_a_loop(loss, seen.maps[1], pooled))


def test_a_global_of_the_right_width_and_the_penalty_are_those_of_local_dim() -> None:
    seen = random_features(IMAGE)
    loss = make_loss(units=5, act_penalty=0.5)
    assert isinstance(loss.global_net, nn.Identity)
    output = loss([seen], BATCH)
    torch.testing.assert_close(output.terms["activation"], 0.5 * seen.maps[2].flatten(1).square().sum(1).mean())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measure", MEASURES)
def test_it_runs_under_autocast(measure: Measure, half: torch.dtype) -> None:
    loss, seen = GlobalDIM(IMAGE, measure=measure, units=32), random_features(IMAGE, dtype=torch.float32)
    with torch.autocast("cpu", half):
        output = loss([seen], BATCH)
    total(output).backward()
    assert total(output).dtype == torch.float32
    assert torch.isfinite(torch.stack([total(output).detach(), *output.watched.values()])).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())


@pytest.mark.parametrize("measure", ["jsd", "nce"])
def test_a_small_encoder_learns(measure: Measure) -> None:
    torch.manual_seed(0)
    (block,) = image_blocks([(GlobalDIM, {"measure": measure, "units": 16})])
    first, last = train([block], steps=15, items=16)
    assert last["block0/GlobalDIM"] < first["block0/GlobalDIM"]
    assert last["block0/GlobalDIM/accuracy"] > first["block0/GlobalDIM/accuracy"]


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        (block_spec((9, (1, 1)), (5, (1, 1))), {}, DoesNotFit, "block 2 has none of more than one position"),
        (block_spec((3, (4, 4, 4)), (5, (2, 2, 2))), {}, DoesNotFit, "one or two axes, but this one has 3"),
        (block_spec((3, (4, 4)), (5, (1, 1))), {"global_map": 0}, DoesNotFit, "nothing but the input"),
        (IMAGE, {"local_map": "7x7"}, DoesNotFit, "global_dim: block 2 has no map of 7x7"),
        (IMAGE, {"units": 0}, InfomaxError, "global_dim: units is 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    spec: BlockSpec, options: dict[str, Any], error: type[InfomaxError], message: str
) -> None:
    with pytest.raises(error, match=message):
        GlobalDIM(spec, **options)


def test_a_batch_of_one_and_a_map_of_another_size_are_refused_in_one_line() -> None:
    with pytest.raises(InfomaxError, match="this batch has one"):
        make_loss()([random_features(IMAGE, items=1)], BATCH)
    larger = features(*random_features(block_spec((3, (12, 12)), (4, (7, 5)), (5, (1, 1)))).maps)
    with pytest.raises(InfomaxError, match="built for a map of 6x5, but this batch makes one of 7x5"):
        make_loss()([larger], BATCH)
