"""Classifiers that a probe puts on frozen features. Pure functions of tensors; nothing here knows of runs or data.

Each is fitted on rows ``(N, D)`` with classes ``(N,)``. What it must choose (a strength, a number of neighbours, when
to stop) it chooses on rows of items held out from those same rows, and it tells what it chose. Sets beyond `LARGE` are
never in memory as a whole: choices are made on a sample of theirs, then all rows are streamed in minibatches.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.logistic import Logistic, Whitening, fit_logistic, fit_minibatches
from infomax_cli.core.rows import LARGE, Rows, distinct
from infomax_cli.core.seeds import derive_seed, torch_generator
from infomax_cli.core.table import rows_of

Classifier = Literal["linear", "mlp", "knn"]

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of the L2 penalty, the strongest first; see fit_linear
PARTS = 6  # one of so many parts of the items is held out
FEW = 5000  # rows up to which each of the parts is held out in turn
_ROUGH = 2e-3  # tolerance while strengths are tried
GAIN = 5e-4  # accuracy by which a weaker penalty must be better, of many rows, to be worth its time
_BATCH = 256  # rows of a step of the network
NEIGHBOURS = (1, 5, 20, 50)
TEMPERATURE = 0.07  # of a neighbour's vote exp(cosine / temperature), as in Wu et al. 2018
MOST_NEIGHBOURS = 100_000  # rows among which neighbours are looked for
_ASKED = 10_000  # rows held out that are asked about at a time


@dataclass(frozen=True)
class Fit:
    """A fitted classifier. `predict` takes rows ``(N, D)`` to classes ``(N,)``, both on the CPU; `choice` is what was
    chosen, `held_out` the accuracy that spoke for it (None where nothing could be held out)."""

    predict: Callable[[Tensor], Tensor]
    choice: Mapping[str, float]
    held_out: float | None = None
    notes: tuple[str, ...] = ()


def fit(
    name: Classifier, rows: Rows, *, seed: int, device: torch.device, whole: bool = False, large: int = LARGE
) -> Fit:
    """Fit the classifier `name`. With `whole`, every item is of one class, and each class is held out in proportion.
    Sets of more than `large` values are streamed."""
    problem = _Problem.of(rows, seed, device, whole=whole, large=large)
    fitted = _FITTERS[name](problem)
    classes = problem.present

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            return classes[fitted.predict(x.to(device)).cpu()]

    return Fit(predict, fitted.choice, fitted.held_out, fitted.notes)


@dataclass(frozen=True)
class _Problem:
    """Rows on their device, classes numbered among those `present`, and which part of the items each row belongs to.

    Of a set that is too large for that they are a sample, and `full` is the set itself.
    """

    x: Tensor
    y: Tensor
    part: Tensor
    present: Tensor
    seed: int
    held_out: tuple[int, ...] = field(default=())
    full: _Full | None = None

    @classmethod
    def of(cls, rows: Rows, seed: int, device: torch.device, *, whole: bool, large: int = LARGE) -> _Problem:
        present, y = distinct(rows.labels)
        part = parts(rows.items, PARTS, seed, classes=y if whole else None)
        full = None
        if rows.values > large:
            full = _Full(Rows(rows.kept, y, rows.items), part, device)
            order = torch.randperm(len(rows), generator=torch_generator("sample", seed))
            drawn = order[: rows_of(large // 4, rows.dims)].sort().values
            x, y, part = rows.take(drawn), y[drawn], part[drawn]
        else:
            x = rows.features
        turns = range(PARTS) if len(x) <= FEW else range(1)
        # held out it can only be where something is left to learn from
        held_out = tuple(turn for turn in turns if 0 < int((part == turn).sum()) < len(x))
        return cls(x.to(device), y.to(device), part.to(device), present, seed, held_out, full)

    @property
    def classes(self) -> int:
        return len(self.present)

    @property
    def rows(self) -> int:
        """How many there are, be they here or not."""
        return len(self.x) if self.full is None else len(self.full.rows)

    @property
    def share(self) -> str:
        return f"{len(self.x):,} of {self.rows:,} rows, drawn by the seed"


@dataclass(frozen=True)
class _Full:
    """All `rows` of a large set, their labels numbered, and the `part` of each; read a part at a time."""

    rows: Rows
    part: Tensor
    device: torch.device

    def shuffled(self, rows: Rows, whiten: Whitening, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Whitened features and classes of all those `rows`, some ten thousand at a time."""
        for places, x in rows.shuffled(order):
            yield whiten(x.to(self.device)), rows.labels[places].to(self.device)


def parts(items: Tensor, count: int, seed: int, classes: Tensor | None = None) -> Tensor:
    """Deal the items into `count` parts, drawn by `seed`: the part of each row ``(N,)``. Where an item has one class
    (`classes`, of each row), the items of a class are dealt evenly."""
    unique, where = distinct(items)
    order = torch.randperm(len(unique), generator=torch_generator("held out", seed))
    if classes is not None:
        of_item = torch.empty(len(unique), dtype=torch.long)
        of_item[where] = classes
        order = order[of_item[order].argsort(stable=True)]
    part = torch.empty(len(unique), dtype=torch.long)
    part[order] = torch.arange(len(unique)) % count
    return part[where]


# --- linear ----------------------------------------------------------------------------------------------------------


def fit_linear(problem: _Problem, strengths: Sequence[float] = STRENGTHS) -> Fit:
    """Logistic regression on whitened features, at the optimum for the best of `strengths`.

    The penalty on a component's weights is the strength divided by the component's deviation (of standardised
    features). That is half-way between a ridge on whitened features, which trusts what hardly varies as much as what
    varies most, and one on standardised features, and with few labels better than either; with many it hardly matters.

    From the strongest on, each starts where the last one ended; once two in a row were no better the rest are not
    tried. The one chosen is fitted on all rows: of a large set, on the sample, and from there on all in minibatches,
    with a strength that is smaller by as much as the rows are more.
    """
    whiten = Whitening.fit(problem.x)
    x, penalty = whiten(problem.x), whiten.variances.rsqrt()
    chosen, accuracy, start = _choose_strength(problem, x, penalty, strengths)
    best = fit_logistic(x, problem.y, problem.classes, chosen * penalty, start=start)
    notes = [] if best.converged else [f"L-BFGS stopped short of the optimum after {best.steps} evaluations"]
    if (full := problem.full) is not None:
        # more rows outweigh the same prejudice against large weights
        chosen = max(min(strengths), chosen * len(x) / problem.rows)
        order = torch_generator("minibatches", problem.seed)
        stream = functools.partial(full.shuffled, full.rows, whiten, order)
        best = fit_minibatches(stream, problem.rows, x, chosen * penalty, start=best)
        notes.append(f"its strength is from {problem.share}; all were learnt from in {best.steps:,} minibatches")
    return Fit(lambda rows: best.predict(whiten(rows)), {"l2": chosen}, accuracy, tuple(notes))


def _choose_strength(
    problem: _Problem, x: Tensor, penalty: Tensor, strengths: Sequence[float]
) -> tuple[float, float | None, Logistic | None]:
    """The best strength, its held-out accuracy, and a model near its optimum to start from."""
    if not problem.held_out:
        return strengths[len(strengths) // 2], None, None
    models: dict[int, Logistic] = {}
    best, best_score, worse, near = strengths[0], -1.0, 0, None
    gain = 0.0 if len(problem.held_out) > 1 else GAIN
    for strength in strengths:
        right = total = 0
        for turn in problem.held_out:
            out = problem.part == turn
            models[turn] = fit_logistic(
                x[~out], problem.y[~out], problem.classes, strength * penalty, start=models.get(turn), tolerance=_ROUGH
            )
            right += int((models[turn].predict(x[out]) == problem.y[out]).sum())
            total += int(out.sum())
        score = right / total
        if score > best_score + (gain if best_score >= 0 else 0):
            best, best_score, worse, near = strength, score, 0, models[problem.held_out[0]]
        else:
            worse += 1
        if worse == 2:
            break
    return best, best_score, near


# --- one hidden layer ------------------------------------------------------------------------------------------------


class _Feed(Protocol):
    """What a network learns from (`rows`, all of them in each epoch), and the accuracy on what is held out."""

    rows: int

    def epoch(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]: ...

    def accuracy(self, net: nn.Module) -> float: ...


class _Loaded:
    """Whitened features in memory."""

    def __init__(self, problem: _Problem, x: Tensor) -> None:
        self.x, self.y = x, problem.y
        self.out = problem.part == 0 if problem.held_out else torch.zeros_like(problem.part, dtype=torch.bool)
        self.learn = (~self.out).nonzero().flatten().cpu()
        self.rows = len(self.learn)

    def epoch(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for places in self.learn[torch.randperm(self.rows, generator=order)].split(_BATCH):  # type: ignore[no-untyped-call]
            yield self.x[places], self.y[places]

    def accuracy(self, net: nn.Module) -> float:
        return float((_predict(net, self.x[self.out]) == self.y[self.out]).double().mean())


class _Streamed:
    """Features that are read and whitened as they are needed."""

    def __init__(self, full: _Full, whiten: Whitening, *, hold_out: bool) -> None:
        self.full, self.whiten = full, whiten
        out = full.part == 0 if hold_out else torch.zeros_like(full.part, dtype=torch.bool)
        self.learn, self.held = full.rows.where(~out), full.rows.where(out)
        self.rows = len(self.learn)

    def epoch(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.full.shuffled(self.learn, self.whiten, order):
            yield from zip(x.split(_BATCH), y.split(_BATCH), strict=True)  # type: ignore[no-untyped-call]

    def accuracy(self, net: nn.Module) -> float:
        found = [_predict(net, self.whiten(x.to(self.full.device))).cpu() for x in self.held.parts()]
        return float((torch.cat(found) == self.held.labels).double().mean())


def _feed(problem: _Problem, whiten: Whitening) -> _Feed:
    if problem.full is None:
        return _Loaded(problem, whiten(problem.x))
    return _Streamed(problem.full, whiten, hold_out=bool(problem.held_out))


def fit_mlp(problem: _Problem, hidden: int = 256, dropout: float = 0.2, rounds: int = 100, patience: int = 5) -> Fit:
    """One hidden layer of ReLUs on whitened features: Adam at 1e-3, batches of 256 rows.

    After each round, an epoch or at least 50 steps, it is scored on what is held out; it ends when that has not risen
    for `patience` rounds, with the weights of the best one. Where nothing can be held out there are ten rounds.
    """
    whiten, holds_out = Whitening.fit(problem.x), bool(problem.held_out)
    feed = _feed(problem, whiten)
    epochs = -(-50 // -(-feed.rows // _BATCH))  # of a round
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("mlp", problem.seed))
        net = nn.Sequential(
            nn.Linear(whiten.dims, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, problem.classes)
        ).to(problem.x)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        order = torch_generator("mlp order", problem.seed)
        best, best_score, best_round = copy.deepcopy(net.state_dict()), -1.0, 0
        for number in range(1, (rounds if holds_out else 10) + 1):
            net.train()
            for _ in range(epochs):
                for x, y in feed.epoch(order):
                    optimizer.zero_grad()
                    F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            net.eval()
            score = feed.accuracy(net) if holds_out else float(number)
            if score > best_score:
                best, best_score, best_round = copy.deepcopy(net.state_dict()), score, number
            elif number - best_round >= patience:
                break
    net.load_state_dict(best)
    choice = {"hidden": float(hidden), "epochs": float(best_round * epochs)}
    return Fit(lambda rows: _predict(net, whiten(rows)), choice, best_score if holds_out else None)


def _predict(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(2**15)])  # type: ignore[no-untyped-call]


# --- neighbours ------------------------------------------------------------------------------------------------------


def fit_knn(problem: _Problem, neighbours: Sequence[int] = NEIGHBOURS, most: int = MOST_NEIGHBOURS) -> Fit:
    """The vote of the k rows of highest cosine similarity, each weighted exp(cosine / 0.07) (Wu et al. 2018, 3.4).

    Each dimension is first brought to mean 0 and variance 1, so that no baseline suffers from its units.
    """
    notes: tuple[str, ...] = ()
    x, y, part = problem.x, problem.y, problem.part
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-8)
    if len(x) > most:
        drawn = torch.randperm(len(x), generator=torch_generator("knn", problem.seed))[:most].sort().values
        x, y, part = x[drawn], y[drawn], part[drawn]
    if len(x) < problem.rows:
        notes = (f"neighbours are looked for among {len(x):,} of {problem.rows:,} rows, drawn by the seed",)

    def direct(rows: Tensor) -> Tensor:
        return F.normalize((rows - mean) / deviation, dim=1)

    known = direct(x)
    right = dict.fromkeys(neighbours, 0)
    total = 0
    for turn in problem.held_out:
        out = part == turn
        asked = out.nonzero().flatten()[:_ASKED]
        if len(asked) > 0 and not out.all():
            votes = _votes(known[asked], known[~out], y[~out], problem.classes, neighbours)
            right = {k: right[k] + int((vote.argmax(1) == y[asked]).sum()) for k, vote in votes.items()}
            total += len(asked)
    chosen = max(neighbours, key=lambda k: (right[k], -k))
    accuracy = right[chosen] / total if total else None

    def predict(rows: Tensor) -> Tensor:
        return _votes(direct(rows), known, y, problem.classes, [chosen])[chosen].argmax(1)

    return Fit(predict, {"k": float(chosen)}, accuracy, notes)


def _votes(queries: Tensor, known: Tensor, y: Tensor, classes: int, neighbours: Sequence[int]) -> dict[int, Tensor]:
    """For each k the weighted votes ``(N, classes)`` of the k nearest."""
    most = min(max(neighbours), len(known))
    votes: dict[int, list[Tensor]] = {k: [] for k in neighbours}
    for part in queries.split(max(1, 2**26 // max(1, len(known)))):  # type: ignore[no-untyped-call]
        near = (part @ known.T).topk(most, dim=1)
        weights = ((near.values - 1) / TEMPERATURE).exp()
        for k in neighbours:
            vote = queries.new_zeros(len(part), classes)
            votes[k].append(vote.scatter_add_(1, y[near.indices[:, :k]], weights[:, :k]))
    return {k: torch.cat(found) for k, found in votes.items()}


_FITTERS: Mapping[Classifier, Callable[[_Problem], Fit]] = {"linear": fit_linear, "mlp": fit_mlp, "knn": fit_knn}
