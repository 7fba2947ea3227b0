"""The learning rate as a function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from infomax_cli.recipe import Milestones, TrainOptions


def rate_factor(options: TrainOptions, step: int, total: int, steps_per_epoch: int) -> float:
    """What `options.lr` is multiplied by at `step` (0-based) of `total`: linear warm-up, then the schedule."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    schedule = options.schedule
    if isinstance(schedule, Milestones):
        passed = sum(step >= epoch * steps_per_epoch for epoch in schedule.at)
        return schedule.factor**passed
    done = (step - options.warmup) / max(1, total - options.warmup)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1.0 - done
    return 1.0
