"""The KL to a standard normal: closed form, Monte-Carlo estimate, reductions, warm-up, and where it does not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from infomax_cli.core.api import Axis, Batch, BlockSpec, DataSpec, DoesNotFit, Features, Gaussian, InfomaxError, MapSpec
from infomax_plugins.losses.kl import StandardNormalKL, per_unit

UNITS, FRAMES = 5, 7
BATCH = Batch(views=(), labels={}, ids=())


def block_spec(posteriors: tuple[int, ...] = (1,)) -> BlockSpec:
    maps = (MapSpec(1, (70,), (Axis(),)), MapSpec(UNITS, (FRAMES,), (Axis(hop=10),)))
    return BlockSpec(0, (0,), maps, 1, None, posteriors, 1, DataSpec(1, (70,), ("time",), 16000, {}, {"train": 1}))


def posterior(seed: int = 0, items: int = 3) -> Gaussian:
    draw = torch.Generator().manual_seed(seed)
    mean = torch.randn(items, UNITS, FRAMES, dtype=torch.float64, generator=draw).requires_grad_()
    logvar = torch.randn(items, UNITS, FRAMES, dtype=torch.float64, generator=draw).requires_grad_()
    return Gaussian(mean, logvar)


def features(*posteriors: Gaussian) -> Features:
    return Features((posteriors[-1].mean,), posteriors[-1].mean, None, posteriors)


def judged(loss: StandardNormalKL, *posteriors: Gaussian) -> Tensor:
    return loss([features(*posteriors)], BATCH).terms["kl"]


def make_loss(**options: Any) -> StandardNormalKL:
    return StandardNormalKL(block_spec(), **options)


def test_it_is_the_closed_form_and_the_monte_carlo_estimate() -> None:
    q = posterior()
    normal, prior = Normal(q.mean, (0.5 * q.logvar).exp()), Normal(torch.zeros(()).double(), 1.0)
    exact = kl_divergence(normal, prior)
    torch.testing.assert_close(judged(make_loss(), q), exact.sum(1).mean())
    torch.manual_seed(0)
    draws = normal.sample((200_000,))
    estimate = (normal.log_prob(draws) - prior.log_prob(draws)).mean(0)
    torch.testing.assert_close(q.kl(), estimate, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("reduction", ["frame", "published"])
def test_values_and_gradients_are_those_of_a_plain_loop(reduction: str) -> None:
    q = posterior()
    total = torch.zeros((), dtype=torch.float64)
    items = len(q.mean)
    for b in range(items):
        for c in range(UNITS):
            for t in range(FRAMES):
                mean, logvar = q.mean[b, c, t], q.logvar[b, c, t]
                total = total - 0.5 * (1 + logvar - mean**2 - math.e**logvar)
    expected = total / (items * FRAMES) if reduction == "frame" else total / (items * UNITS)
    given = judged(make_loss(reduction=reduction), q)
    torch.testing.assert_close(given, expected)
    wanted = torch.autograd.grad(expected, [q.mean, q.logvar])
    torch.testing.assert_close(torch.autograd.grad(given, [q.mean, q.logvar]), wanted)


def test_of_several_gaussians_and_views_it_is_the_mean() -> None:
    one, two, three = posterior(1), posterior(2), posterior(3)
    loss = make_loss()
    found = loss([features(one, two), features(three)], BATCH).terms["kl"]
    torch.testing.assert_close(found, sum(judged(loss, q) for q in (one, two, three)) / 3)


def test_units_within_their_free_bits_cost_nothing_and_are_not_pulled() -> None:
    q = posterior()
    units = per_unit(q.kl()).detach()
    free = float(units.sort().values[2])  # three units at or below
    term = judged(make_loss(free_bits=free), q)
    torch.testing.assert_close(term, units.clamp_min(free).sum())
    (gradient,) = torch.autograd.grad(term, [q.mean])
    assert int((gradient.abs().sum((0, 2)) > 0).sum()) <= 3
    torch.testing.assert_close(judged(make_loss(free_bits=0.0), q), units.sum())


def test_the_weight_rises_with_the_batches_of_training_and_is_saved() -> None:
    loss, q = make_loss(warmup=4), posterior()
    whole = judged(make_loss(), q)
    rising = [(judged(loss, q) / whole).item() for _ in range(6)]
    assert rising == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    again = make_loss(warmup=4)
    again.load_state_dict({"seen": torch.tensor(2)})
    again.eval()
    still = [(judged(again, q) / whole).item() for _ in range(2)]
    assert still == pytest.approx([0.5, 0.5])  # validation counts for none


def test_what_is_watched_is_in_nats_whatever_the_options() -> None:
    mean = torch.zeros(2, UNITS, FRAMES)
    mean[:, :2] = 1.0  # half a nat each
    q = Gaussian(mean.requires_grad_(), torch.zeros(2, UNITS, FRAMES))
    watched = make_loss(reduction="published", warmup=10)([features(q)], BATCH).watched
    assert float(watched["nats"]) == pytest.approx(1.0)
    assert float(watched["active"]) == 2
    assert watched["units"].tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])


def test_under_autocast_it_is_computed_in_single_precision() -> None:
    mean, logvar = torch.full((2, UNITS, FRAMES), 200.0), torch.full((2, UNITS, FRAMES), 12.0)
    half = Gaussian(mean.half().requires_grad_(), logvar.half())  # exp(12) is beyond what fp16 holds
    with torch.autocast("cpu", torch.bfloat16):
        term = judged(make_loss(), half)
    assert term.dtype == torch.float32
    torch.testing.assert_close(term, Gaussian(mean, logvar).kl().sum(1).mean())


def test_a_block_without_a_gaussian_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="block 0 has none"):
        StandardNormalKL(block_spec(()))


@pytest.mark.parametrize("options", [{"free_bits": -1.0}, {"warmup": -1}, {"free_bits": 0.1, "reduction": "published"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InfomaxError, match="kl: "):
        make_loss(**options)
