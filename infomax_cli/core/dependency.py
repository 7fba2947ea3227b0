"""The neural dependency measure: how far the units of a code are from being independent of each other.

A critic tells codes from the same codes with every unit shuffled over the batch by itself, which have the same
marginals and nothing else in common. What it finds is a lower bound of the KL divergence between the two, the total
correlation of the units (Hjelm et al. 2019, section 4 and appendix A; Brakel and Bengio 2017).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import DataError, UsageError
from infomax_cli.core.classifiers import parts
from infomax_cli.core.features import FrozenEncoder, extract
from infomax_cli.core.rows import Rows
from infomax_cli.core.seeds import derive_seed, torch_generator
from infomax_cli.core.subject import Subject

MOST = 20_000  # rows that are looked at
_PARTS = 6  # of the items: one says when to stop, one is measured on, the others are learnt from
_CHECKS = 40  # times at which it is asked whether the critic still gets better
_LIMIT = 10.0  # nats up to which a score is taken as it is
_SHUFFLES = 4  # of the rows that are measured on


@dataclass(frozen=True, kw_only=True)
class DependencyOptions:
    """The critic's hidden `layers`, each with a ReLU, and its training: Adam at `lr`, `steps` of `batch` rows.

    Published are batches of 10,000 at 1e-4 over 1000 epochs; smaller ones at a higher rate get there sooner.
    """

    layers: Sequence[int] = (1000, 200)
    steps: int = 1000
    batch: int = 1000
    lr: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise UsageError(
                f"--batch {self.batch}: must be at least 2", "in a batch of one there is nothing to shuffle"
            )
        if self.steps < 1:
            raise UsageError(f"--critic-steps {self.steps}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """What a critic found, in nats: the Donsker-Varadhan estimate on rows that it has not seen, and on those that it
    learnt from. `ceiling` is the logarithm of the number of shuffled rows: a lower bound that can be relied on is never
    above it (McAllester and Stratos 2020)."""

    units: int
    rows: int
    held_out_rows: int
    nats: float
    train_nats: float
    ceiling: float
    step: int

    @property
    def saturated(self) -> bool:
        """Whether the estimate is at its ceiling, or above: the rows are too few to tell how large the measure is."""
        return self.nats >= self.ceiling

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "saturated": self.saturated}


def measure_dependency(
    subject: Subject,
    label: str,
    depths: Sequence[int],
    options: DependencyOptions,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, Dependency]:
    """The dependency of the units of each depth, over rows of the test split that have the label.

    Raises `DataError` where there are too few.
    """
    source = FrozenEncoder(subject.encoder, subject.recipe.sampling, subject.device, depths)
    split = subject.split("test")
    found = extract(source, split, {label: subject.data.labels[label]}, seed=options.seed)
    return {
        depth: dependency_of_rows(rows, options, subject.device, advance)
        for depth, rows in zip(depths, found.rows[label], strict=True)
    }


def dependency_of_rows(
    rows: Rows, options: DependencyOptions, device: torch.device, advance: Callable[[], None] = lambda: None
) -> Dependency:
    """Items, with all of their rows, are learnt from, stopped by or measured on."""
    order = torch.randperm(len(rows), generator=torch_generator("dependency", options.seed))[:MOST].sort().values
    x, part = rows.take(order), parts(rows.items[order], _PARTS, options.seed)
    train, check, test = x[part > 1], x[part == 1], x[part == 0]
    if min(len(train), len(check), len(test)) < 2:
        raise DataError(
            f"the dependency of units cannot be told from {len(x)} rows", "take data with more items in its test split"
        )
    return dependency(train.to(device), check.to(device), test.to(device), options, advance)


def dependency(
    train: Tensor,
    check: Tensor,
    test: Tensor,
    options: DependencyOptions,
    advance: Callable[[], None] = lambda: None,
) -> Dependency:
    """The measure of codes ``(N, D)``: learnt on `train`, the critic kept that is best on `check`, estimated on `test`.

    The critic minimises the bound of the KL divergence as an f-divergence, ``E_Q exp(u - 1) - E_P u``, P the codes and
    Q the shuffled ones. Units are first brought to mean 0 and variance 1, which changes no dependency.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0).clamp_min(1e-8)
    train, check, test = ((x - mean) / deviation for x in (train, check, test))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("dependency", options.seed))
        critic = _make_critic(train.shape[1], options.layers).to(train)
        optimizer = torch.optim.Adam(critic.parameters(), lr=options.lr)
        best, best_nats, best_step = copy.deepcopy(critic.state_dict()), 0.0, 0  # which claims nothing
        for step in range(1, options.steps + 1):
            drawn = torch.randint(len(train), (min(options.batch, len(train)),), device=train.device)
            loss = _kl_loss(critic, train[drawn])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % max(1, options.steps // _CHECKS) == 0 or step == options.steps:
                nats = donsker_varadhan(critic, check)
                if nats > best_nats:
                    best, best_nats, best_step = copy.deepcopy(critic.state_dict()), nats, step
            advance()
        critic.load_state_dict(best)
        return Dependency(
            units=train.shape[1],
            rows=len(train) + len(check),
            held_out_rows=len(test),
            nats=donsker_varadhan(critic, test),
            train_nats=donsker_varadhan(critic, train),
            ceiling=math.log(_SHUFFLES * len(test)),
            step=best_step,
        )


def shuffled(x: Tensor) -> Tensor:
    """Every column of ``(N, D)`` in an order of its own: the same marginals, independent of each other."""
    return x.gather(0, torch.rand_like(x).argsort(0))


@torch.no_grad()
def donsker_varadhan(critic: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """``E_P u - log E_Q exp u``, in nats, with several shuffles of the rows."""
    joint = critic(x).double().mean()
    apart = torch.cat([critic(shuffled(x)) for _ in range(_SHUFFLES)]).double().flatten()
    return float(joint - (apart.logsumexp(0) - math.log(len(apart))))


def _kl_loss(critic: nn.Module, x: Tensor) -> Tensor:
    joint, apart = _reined(critic(x)), _reined(critic(shuffled(x)))
    return torch.exp(apart - 1).mean() - joint.mean()


def _reined(u: Tensor) -> Tensor:
    """`u`, growing as a logarithm above the limit, so that its exponential grows in a line: a critic still."""
    return torch.where(u > _LIMIT, _LIMIT + torch.log1p(F.relu(u - _LIMIT)), u)


def _make_critic(units: int, layers: Sequence[int]) -> nn.Sequential:
    widths = [units, *layers]
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(widths[-1], 1)
    nn.init.zeros_(last.weight)  # all scores alike: nothing is found before something is learnt
    return nn.Sequential(*hidden, last)
