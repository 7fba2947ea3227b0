"""The learning rate as a function of the step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from infomax_cli.core.schedule import rate_factor
from infomax_cli.recipe import Milestones, TrainOptions


def rates(total: int, *, steps_per_epoch: int = 10, **options: object) -> list[float]:
    made = TrainOptions(steps=total, **options)  # type: ignore[arg-type]
    return [rate_factor(made, step, total, steps_per_epoch) for step in range(total)]


def test_without_a_schedule_the_rate_stays() -> None:
    assert rates(5) == [1.0] * 5


def test_warm_up_rises_to_the_full_rate_and_is_never_zero() -> None:
    assert rates(6, warmup=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_a_schedule_begins_at_the_full_rate_after_warm_up_and_falls_towards_zero(schedule: str, warmup: int) -> None:
    found = rates(13, schedule=schedule, warmup=warmup)[warmup:]
    assert found[0] == 1.0
    assert all(after < before for before, after in pairwise(found))
    assert 0 < found[-1] < 0.11


def test_cosine_and_linear_are_what_they_are_called() -> None:
    assert rates(4, schedule="cosine") == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert rates(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]


def test_milestones_count_epochs() -> None:
    found = rates(50, schedule=Milestones(at=[2, 4], factor=0.5))
    assert (found[19], found[20], found[39], found[40]) == (1.0, 0.5, 0.5, 0.25)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_warm_up_longer_than_the_run_is_no_error(schedule: str) -> None:
    assert rates(3, warmup=10, schedule=schedule) == [0.1, 0.2, 0.3]
