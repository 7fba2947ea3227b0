"""Local Deep InfoMax equals a loop over pairs of locations and globals, on images, speech and blocks after a cut."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dim_blocks import (
    BATCH,
    assert_learns_in_float32,
    blob_images,
    block_spec,
    features,
    gradients,
    image_blocks,
    random_features,
    total,
    train,
)
from infomax_cli.core.api import BlockSpec, DoesNotFit, Features, InfomaxError, UsageError
from infomax_plugins.losses._divergences import Measure
from infomax_plugins.losses.local_dim import LocalDIM
from toys import batch_of

MEASURES: tuple[Measure, ...] = get_args(Measure)
IMAGE = block_spec((3, (6, 6)), (4, (2, 3)), (5, (1, 1)))
SEVERAL = block_spec((3, (6, 6)), (4, (2, 3)), (5, (1, 2)))
SPEECH = block_spec((1, (40,)), (4, (6,)))
AFTER_A_CUT = block_spec((4, (2, 3)), (5, (1, 1)))


def make_loss(spec: BlockSpec, **options: Any) -> LocalDIM:
    torch.manual_seed(1)
    return LocalDIM(spec, **{"units": 7} | options).double()


# --- the loop --------------------------------------------------------------------------------------------------------


def embedded(net: nn.Module, x: Tensor) -> list[list[Tensor]]:
    """What the scoring network makes of each item's locations, in the order of the grid."""
    return [list(item) for item in net(x.flatten(2).transpose(1, 2))]


def dim_in_a_loop(loss: LocalDIM, local_map: Tensor, global_map: Tensor) -> Tensor:
    local, summary = embedded(loss.local_net, local_map), embedded(loss.global_net, global_map)
    positives, negatives, crossed = [], [], []
    for i, of_item in enumerate(summary):
        for g in of_item:
            others = [g @ x for j, item in enumerate(local) if j != i for x in item]
            own = [g @ x for x in local[i]]
            positives += own
            negatives += others
            crossed += [-torch.log(u.exp() / (u.exp() + torch.stack(others).exp().sum())) for u in own]
    p, n = torch.stack(positives), torch.stack(negatives)
    log, exp = torch.log, torch.exp
    if loss.measure == "w1":
        norms_p, norms_n = norms(local, summary)
        return (n / norms_n).mean() - (p / norms_p).mean()
    return {
        "jsd": lambda: (log(1 + exp(n)) - math.log(2)).mean() - (math.log(2) - log(1 + exp(-p))).mean(),
        "gan": lambda: log(1 + exp(n)).mean() + log(1 + exp(-p)).mean(),
        "kl": lambda: exp(n - 1).mean() - p.mean(),
        "rkl": lambda: (n - 1).mean() + exp(-p).mean(),
        "h2": lambda: (exp(n) - 1).mean() - (1 - exp(-p)).mean(),
        "x2": lambda: torch.where(n > -2, n**2 / 4 + n, -torch.ones_like(n)).mean() - p.mean(),
        "dv": lambda: log(exp(n).mean()) - p.mean(),
        "nce": lambda: torch.stack(crossed).mean(),
    }[loss.measure]()


def norms(local: list[list[Tensor]], summary: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The product of the norms of every positive pair, and of every negative one."""
    own, others = [], []
    for i, of_item in enumerate(summary):
        for g in of_item:
            others += [g.norm() * x.norm() for j, item in enumerate(local) if j != i for x in item]
            own += [g.norm() * x.norm() for x in local[i]]
    return torch.stack(own), torch.stack(others)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("spec", [IMAGE, SEVERAL], ids=["one_global", "several_globals"])
def test_values_and_gradients_are_those_of_a_loop(measure: Measure, spec: BlockSpec) -> None:
    loss, seen = make_loss(spec, measure=measure, local_map=1, global_map=2), random_features(spec)
    found = total(loss([seen], BATCH))
    expected = dim_in_a_loop(loss, seen.maps[1], seen.maps[2])
    torch.testing.assert_close(found, expected)
    tensors = [*seen.maps[1:], *loss.parameters()]
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("measure", ["jsd", "nce"])
def test_without_a_vector_the_global_is_the_mean_of_the_last_map(measure: Measure) -> None:
    for spec in (SPEECH, block_spec((2, (8, 8)), (4, (3, 2)))):
        loss, seen = make_loss(spec, measure=measure), random_features(spec)
        pooled = seen.maps[1].flatten(2).mean(2, keepdim=True)
        found, expected = total(loss([seen], BATCH)), dim_in_a_loop(loss, seen.maps[1], pooled)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, seen.maps[1:]), gradients(expected, seen.maps[1:]))


def test_after_a_cut_the_block_s_input_is_the_local_map() -> None:
    loss, seen = make_loss(AFTER_A_CUT), random_features(AFTER_A_CUT)
    found = total(loss([seen], BATCH))
    torch.testing.assert_close(found, dim_in_a_loop(loss, *seen.maps))
    assert gradients(found, seen.maps[1:])[0].abs().sum() > 0


@pytest.mark.parametrize("measure", ["jsd", "nce"])
@pytest.mark.parametrize("views", [2, 3])
def test_of_several_views_each_is_held_against_the_others(measure: Measure, views: int) -> None:
    loss = make_loss(IMAGE, measure=measure)
    seen = [random_features(IMAGE, seed=seed) for seed in range(views)]
    found = total(loss(seen, BATCH))
    pairs = [(a, b) for a in range(views) for b in range(views) if a != b]
    expected = sum(dim_in_a_loop(loss, seen[a].maps[1], seen[b].maps[2]) for a, b in pairs) / len(pairs)
    torch.testing.assert_close(found, expected)
    tensors = [each for view in seen for each in view.maps[1:]] + list(loss.parameters())
    torch.testing.assert_close(gradients(found, tensors), gradients(expected, tensors))


# --- which maps ------------------------------------------------------------------------------------------------------

CIFAR = block_spec((3, (32, 32)), (64, (16, 16)), (128, (8, 8)), (256, (4, 4)), (1024, (1, 1)), (64, (1, 1)))


@pytest.mark.parametrize(
    ("spec", "options", "local", "summary", "pooled"),
    [
        (CIFAR, {}, 3, 5, False),
        (CIFAR, {"local_map": "8x8", "global_map": 4}, 2, 4, False),
        (CIFAR, {"local_map": -4, "global_map": "4x4"}, 2, 3, False),
        (AFTER_A_CUT, {}, 0, 1, False),
        (SPEECH, {}, 1, 1, True),
        (block_spec((4, (6,)), (5, (6,)), (3, (6,)), context=2), {}, 1, 2, True),
        (block_spec((5, (6,)), (3, (6,)), context=1), {}, 0, 1, True),  # a context in a block of its own
    ],
    ids=["images", "named", "from_the_end", "after_a_cut", "speech", "context", "context_alone"],
)
def test_the_maps_are_found(spec: BlockSpec, options: dict[str, Any], local: int, summary: int, pooled: bool) -> None:
    loss = LocalDIM(spec, units=4, **options)
    assert (loss.local.index, loss.summary.index, loss.summary.pooled) == (local, summary, pooled)


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        (block_spec((9, (1, 1)), (5, (1, 1))), {}, DoesNotFit, "block 2 has none of more than one position"),
        (IMAGE, {"local_map": "7x7"}, DoesNotFit, "local_dim: block 2 has no map of 7x7"),
        (IMAGE, {"global_map": 3}, DoesNotFit, "local_dim: block 2 has no map 3"),
        (IMAGE, {"global_map": "seven"}, UsageError, "local_dim: 'seven' names no map"),
        (AFTER_A_CUT, {"global_map": 0}, DoesNotFit, "nothing but the input of block 2"),
        (IMAGE, {"global_map": 0, "act_penalty": 0.1}, DoesNotFit, "act_penalty would read nothing but the input"),
        (IMAGE, {"units": 0}, InfomaxError, "local_dim: units is 0, but must be at least 1"),
        (IMAGE, {"local_samples": 0}, InfomaxError, "local_samples is 0"),
        (IMAGE, {"act_penalty": -0.5}, InfomaxError, "act_penalty is -0.5, but must be at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    spec: BlockSpec, options: dict[str, Any], error: type[InfomaxError], message: str
) -> None:
    with pytest.raises(error, match=message):
        LocalDIM(spec, **options)


def test_a_batch_of_one_is_refused_in_one_line() -> None:
    with pytest.raises(InfomaxError, match="tells the items of a batch apart, but this batch has one"):
        make_loss(IMAGE)([random_features(IMAGE, items=1)], BATCH)


# --- options ---------------------------------------------------------------------------------------------------------


def test_a_global_of_the_right_width_is_scored_as_it_is() -> None:
    loss, seen = make_loss(IMAGE, units=5), random_features(IMAGE)
    assert isinstance(loss.global_net, nn.Identity)
    torch.testing.assert_close(total(loss([seen], BATCH)), dim_in_a_loop(loss, seen.maps[1], seen.maps[2]))
    assert not isinstance(make_loss(SEVERAL, units=5, global_map=2).global_net, nn.Identity)


def test_samples_are_locations_of_the_item_and_all_different() -> None:
    spec = block_spec((3, (6, 6)), (4, (5, 5)), (5, (3, 3)))
    seen = features(*(torch.arange(3.0)[:, None, None, None] + torch.rand(3, m.channels, *m.grid) for m in spec.maps))
    loss = LocalDIM(spec, units=7, local_map=1, global_map=2, local_samples=6, global_samples=4)
    given: dict[str, Tensor] = {}
    loss.local_net.register_forward_pre_hook(lambda _, rows: given.update(local=rows[0]))
    loss.global_net.register_forward_pre_hook(lambda _, rows: given.update(summary=rows[0]))
    loss([seen], BATCH)
    assert given["local"].shape == (3, 6, 4)
    assert given["summary"].shape == (3, 4, 5)
    for item in range(3):
        own = [tuple(row) for row in seen.maps[1][item].flatten(1).t().tolist()]
        drawn = [tuple(row) for row in given["local"][item].tolist()]
        assert len(set(drawn)) == 6
        assert set(drawn) <= set(own)
    assert not torch.equal(given["local"][0] - 0.0, given["local"][1] - 1.0)


def test_more_samples_than_there_are_locations_are_all_of_them() -> None:
    seen = random_features(IMAGE)
    some = make_loss(IMAGE, local_samples=100)([seen], BATCH)
    torch.testing.assert_close(total(some), total(make_loss(IMAGE)([seen], BATCH)))


def test_the_activation_penalty_is_the_squared_norm_of_the_encoder_s_global() -> None:
    seen = random_features(IMAGE)
    plain, weighed = make_loss(IMAGE)([seen], BATCH), make_loss(IMAGE, act_penalty=0.3)([seen], BATCH)
    code = seen.maps[2].flatten(1)
    torch.testing.assert_close(total(weighed) - total(plain), 0.3 * sum(c @ c for c in code) / len(code))
    assert list(plain.terms) == ["contrast"]
    assert list(weighed.terms) == ["contrast", "activation"]


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_watched_has_a_name_of_its_own_meaning(measure: Measure) -> None:
    watched = make_loss(IMAGE, measure=measure)([random_features(IMAGE)], BATCH).watched
    bound = "bound" if measure in ("kl", "dv", "nce") else "divergence"
    assert set(watched) == {"accuracy", bound}
    assert not any(value.requires_grad for value in watched.values())


# --- in training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measure", MEASURES)
def test_it_runs_under_autocast_and_in_float32_at_ten_times_the_scores(measure: Measure, half: torch.dtype) -> None:
    spec = block_spec((3, (16, 16)), (6, (8, 8)), (5, (1, 1)))
    loss = LocalDIM(spec, measure=measure, units=64)
    nn.init.constant_(loss.local_net.norm.weight, 20.0)  # scores of some 200
    seen = random_features(spec, dtype=torch.float32)
    with torch.autocast("cpu", half):
        value = total(loss([seen], BATCH))
    # what loss scaling comes to: slopes of e^10 a pair are beyond fp16 in the scoring networks
    assert_learns_in_float32(value * 2**-10 if half == torch.float16 else value, loss)
    assert all(torch.isfinite(m.grad).all() for m in seen.maps[1:] if m.grad is not None)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_small_encoder_learns_with_every_measure(measure: Measure) -> None:
    torch.manual_seed(0)
    (block,) = image_blocks([(LocalDIM, {"measure": measure, "units": 32, "local_map": "4x4"})])
    first, last = train([block], steps=30, items=8)
    assert last["block0/LocalDIM"] < first["block0/LocalDIM"]
    if measure not in ("kl", "rkl", "h2"):  # whose exponentials take longer to come down
        assert last["block0/LocalDIM/accuracy"] > first["block0/LocalDIM/accuracy"]


@pytest.mark.parametrize("views", [1, 2])
def test_greedy_dim_learns_in_every_block_and_sends_nothing_back(views: int) -> None:
    torch.manual_seed(0)
    blocks = image_blocks([(LocalDIM, {"measure": "nce", "units": 32})], cut="each", views=views)
    images = tuple(blob_images(8, seed) for seed in range(views))
    inputs: tuple[Tensor, ...] = images
    for block in blocks:
        output = block(inputs, batch_of(*images))
        assert output.total is not None
        output.total.backward()
        for other in blocks:
            moved = [p.grad for p in other.stages.parameters() if p.grad is not None]
            assert bool(moved) == (other is block)
            other.zero_grad(set_to_none=True)
        inputs = output.outputs
    first, last = train(blocks, steps=20, views=views, items=16)
    assert all(last[name] < first[name] for name in first if name.endswith("/LocalDIM"))


def test_validation_reports_without_a_gradient() -> None:
    loss = make_loss(IMAGE, act_penalty=0.1).eval()
    with torch.no_grad():
        seen: Features = random_features(IMAGE)
        output = loss([seen], BATCH)
    assert not any(term.requires_grad for term in output.terms.values())
