"""The neural dependency measure, where the total correlation is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from infomax_cli.core.api import DataError, UsageError
from infomax_cli.core.dependency import (
    Dependency,
    DependencyOptions,
    dependency,
    dependency_of_rows,
    donsker_varadhan,
    shuffled,
)
from infomax_cli.core.explanation import describe_dependency
from infomax_cli.core.rows import Rows

CPU = torch.device("cpu")
SMALL = DependencyOptions(layers=(64, 32), steps=300, batch=500, lr=4e-3)


def gaussians(correlation: Tensor, count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(correlation), generator=random) @ torch.linalg.cholesky(correlation).T


def measured(correlation: Tensor, scale: float = 1.0) -> Dependency:
    train, check, test = (scale * gaussians(correlation, count, seed) for seed, count in enumerate((6000, 1500, 3000)))
    return dependency(train, check, test, SMALL)


def total_correlation(correlation: Tensor) -> float:
    """Of Gaussians of variance 1: ``-log(det R) / 2``."""
    return -0.5 * float(torch.logdet(correlation.double()))


def test_independent_units_depend_on_nothing() -> None:
    found = measured(torch.eye(4))
    assert abs(found.nats) < 0.01
    assert not found.saturated
    assert found.units == 4


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_correlated_gaussians_come_near_their_total_correlation(scale: float) -> None:
    correlation = torch.full((3, 3), 0.6) + 0.4 * torch.eye(3)
    expected = total_correlation(correlation)
    assert expected == pytest.approx(-0.5 * math.log(0.4**2 * 2.2))
    assert measured(correlation, scale).nats == pytest.approx(expected, rel=0.12)


def test_more_than_the_rows_can_tell_is_said_to_be_that() -> None:
    copies = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 6)  # an infinite correlation
    found = dependency(copies[:2000], copies[2000:2900], copies[2900:2920], SMALL)
    assert found.ceiling == pytest.approx(math.log(80))
    assert found.saturated
    assert found.nats > found.ceiling
    told = describe_dependency(found)
    assert "saturated" in told
    assert "or more" not in told  # nothing is claimed beyond the ceiling


def test_dependence_without_correlation_is_found() -> None:
    random = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(12000, generator=random)
    x = torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(12000, 2, generator=random)
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 0.05
    assert dependency(x[:6000], x[6000:8000], x[8000:], SMALL).nats > 0.3


def test_the_estimate_is_that_of_donsker_and_varadhan() -> None:
    x = torch.randn(200, 3, dtype=torch.float64)

    def critic(x: Tensor) -> Tensor:
        return x.prod(1, keepdim=True)

    torch.manual_seed(1)
    found = donsker_varadhan(critic, x)
    torch.manual_seed(1)
    total, count = 0.0, 0
    for _ in range(4):
        for row in shuffled(x):
            total, count = total + math.exp(float(row.prod())), count + 1
    assert found == pytest.approx(float(x.prod(1).mean()) - math.log(total / count))


def test_shuffling_keeps_marginals_and_breaks_rows() -> None:
    x = torch.arange(300.0).reshape(100, 3)
    y = shuffled(x)
    assert torch.equal(y.sort(0).values, x)
    assert not torch.equal((y[:, 1] - y[:, 0]), x[:, 1] - x[:, 0])
    assert not torch.equal(y[:, 0].argsort(), y[:, 1].argsort())


def test_items_are_never_on_both_sides_and_the_seed_decides() -> None:
    x = gaussians(torch.eye(2), 60)
    rows = Rows(x, torch.zeros(60, dtype=torch.long), torch.arange(60) // 5)
    options = DependencyOptions(layers=(4,), steps=5, batch=8)
    one, other = (dependency_of_rows(rows, options, CPU) for _ in range(2))
    assert one == other
    assert (one.rows, one.held_out_rows) == (50, 10)


def test_what_cannot_be_measured_is_told() -> None:
    rows = Rows(torch.randn(4, 2), torch.zeros(4, dtype=torch.long), torch.arange(4))
    with pytest.raises(DataError, match="cannot be told from 4 rows"):
        dependency_of_rows(rows, SMALL, CPU)
    with pytest.raises(UsageError, match="--batch 1: must be at least 2"):
        DependencyOptions(batch=1)
