"""What `explain` is asked, and what it answers: numbers, words and the names of the files that keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from infomax_cli.core.decode import DecodeOptions
from infomax_cli.core.dependency import Dependency, DependencyOptions
from infomax_cli.core.explain import Explained

HEADER = ("depth", "dims", "best nats", "mean nats", "entropy", "sparsity", "90 % in", "|mean|", "deviation", "KS")
_LEGEND = (
    "best, mean nats: mutual information of the best dimension, and of the mean one, with the label, whose entropy is "
    "the most there is; sparsity: of the linear probe's weights, from 0 (all alike) to 1 (one dimension); 90 % in: so "
    "many dimensions hold that share of its weight; |mean|, deviation: averages over dimensions, 0 and 1 for N(0, 1); "
    "KS: the median dimension's distance from N(0, 1), from 0 to 1"
)
_CONTRIBUTION = (
    "0: the item has become the other; 1: as far from it as with nothing replaced; above 1: farther, as mixed latents "
    "may be like neither"
)
_DEPENDENCY = (
    "nats: what a critic can tell of codes from the same codes with each dimension shuffled over the rows (the neural "
    "dependency measure), 0 where dimensions are independent; a lower bound, estimated on rows that the critic has not "
    "seen, which means something below its ceiling alone, the logarithm of the number of shuffled rows"
)
_FEW = 500  # held-out rows, below which an estimate of nats says little


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a run: about which label and which depths, of draws from Gaussians or of their `means`; and, how
    decoders and critics are trained, where `contribution` and `dependency` are asked for too."""

    label: str
    depths: tuple[int, ...]
    all_depths: bool
    means: bool = False
    seed: int = 0
    contribution: DecodeOptions | None = None
    dependency: DependencyOptions | None = None

    @property
    def stem(self) -> str:
        """The name of its files, which tells it from any other question."""
        extras = {"contribution": self.contribution, "dependency": self.dependency}
        parts = [self.label, *(["means"] if self.means else [])]
        parts += [part for name, options in extras.items() if options for part in (name, *_unusual(options))]
        parts += [] if self.all_depths else [f"depth{depth}" for depth in self.depths]
        parts += [f"seed{self.seed}"] if self.seed else []
        return re.sub(r"[^\w.-]+", "_", "-".join(parts))

    def of_depth(self, depth: int) -> Question:
        """What is asked of one depth's dimensions alone."""
        return Question(label=self.label, depths=(depth,), all_depths=False, means=self.means, seed=self.seed)


def _unusual(options: DecodeOptions | DependencyOptions) -> list[str]:
    """What differs from the defaults; the seed is the question's own."""
    usual = type(options)()
    names = [each.name for each in fields(options) if each.name != "seed"]
    return [f"{name}{getattr(options, name)}" for name in names if getattr(options, name) != getattr(usual, name)]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The answer. `trained_steps` is how long the encoder was trained, where known; `values` ``(N, D)`` are some of
    each depth's, for histograms; `contribution` is by depth and by the number of dimensions replaced."""

    run: str
    trained_steps: int | None
    question: Question
    depths: Sequence[Explained]
    values: Sequence[Tensor]
    contribution: Mapping[int, Mapping[int, float]]
    dependency: Mapping[int, Dependency]

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "trained_steps": self.trained_steps,
            "label": self.question.label,
            "question": asdict(self.question),
            "depths": [found.to_dict() for found in self.depths],
            "contribution": {str(depth): dict(left) for depth, left in self.contribution.items()},
            "dependency": {str(depth): found.to_dict() for depth, found in self.dependency.items()},
        }

    def rows(self) -> list[list[str]]:
        """A depth each, under `HEADER`."""
        return [_row(found) for found in self.depths]

    def notes(self) -> list[str]:
        """What there is to say below the table."""
        notes = [_LEGEND]
        for depth, left in self.contribution.items():
            shares = ", ".join(f"{count}: {value:.2f}" for count, value in left.items())
            notes.append(f"depth {depth}: share of the error left by dimensions replaced: {shares}")
        notes += [_CONTRIBUTION] if self.contribution else []
        notes += [f"depth {depth}: {describe_dependency(found)}" for depth, found in self.dependency.items()]
        return notes + ([_DEPENDENCY] if self.dependency else [])


def describe_dependency(found: Dependency) -> str:
    """One depth's in words; no number of nats where the rows are too few for one."""
    few = ", too few to rely on" if found.held_out_rows < _FEW else ""
    if found.saturated:
        return (
            f"its {found.units:,} dimensions depend on each other by more than {found.held_out_rows:,} held-out rows "
            f"can tell: the bound is saturated, at {found.nats:.1f} nats, and its ceiling is {found.ceiling:.1f}"
        )
    return (
        f"its {found.units:,} dimensions depend on each other by an estimated {found.nats:.3f} nats or more, on "
        f"{found.held_out_rows:,} held-out rows{few} ({found.train_nats:.3f} on those learnt from; the ceiling is "
        f"{found.ceiling:.1f})"
    )


def _row(found: Explained) -> list[str]:
    count = len(found.information)
    distances = sorted(found.distance)
    return [
        str(found.depth),
        str(count),
        f"{max(found.information):.3f}",
        f"{sum(found.information) / count:.3f}",
        f"{found.entropy:.3f}",
        f"{found.sparsity:.2f}",
        str(found.carrying),
        f"{sum(map(abs, found.mean)) / count:.2f}",
        f"{sum(found.deviation) / count:.2f}",
        f"{distances[count // 2]:.3f}",
    ]
