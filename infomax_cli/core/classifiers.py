"""Classifiers that a probe puts on frozen features. Pure functions of tensors; nothing here knows of runs or data.

Each is fitted on rows ``(N, D)`` with classes ``(N,)``. What it must choose (a strength, a number of neighbours, when
to stop) it chooses on rows of items held out from those same rows, and it tells what it chose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.features import Rows, distinct
from infomax_cli.core.logistic import Logistic, Whitening, fit_logistic
from infomax_cli.core.seeds import derive_seed, torch_generator

Classifier = Literal["linear", "mlp", "knn"]

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of the L2 penalty, the strongest first; see fit_linear
PARTS = 6  # one of so many parts of the items is held out
FEW = 5000  # rows up to which each of the parts is held out in turn
_ROUGH = 1e-3  # tolerance while strengths are tried
_GAIN = 5e-4  # accuracy by which a weaker penalty must be better, of many rows, to be worth its time
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


def fit(name: Classifier, rows: Rows, *, seed: int, device: torch.device, whole: bool = False) -> Fit:
    """Fit the classifier `name`. With `whole`, every item is of one class, and each class is held out in proportion."""
    problem = _Problem.of(rows, seed, device, whole=whole)
    fitted = _FITTERS[name](problem)
    classes = problem.present

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            return classes[fitted.predict(x.to(device)).cpu()]

    return Fit(predict, fitted.choice, fitted.held_out, fitted.notes)


@dataclass(frozen=True)
class _Problem:
    """Rows on their device, classes numbered among those `present`, and which part of the items each row belongs to."""

    x: Tensor
    y: Tensor
    part: Tensor
    present: Tensor
    seed: int
    held_out: tuple[int, ...] = field(default=())

    @classmethod
    def of(cls, rows: Rows, seed: int, device: torch.device, *, whole: bool) -> _Problem:
        present, y = distinct(rows.labels)
        part = parts(rows.items, PARTS, seed, classes=y if whole else None)
        turns = range(PARTS) if len(rows) <= FEW else range(1)
        # held out it can only be where something is left to learn from
        held_out = tuple(turn for turn in turns if 0 < int((part == turn).sum()) < len(rows))
        return cls(rows.features.to(device), y.to(device), part.to(device), present, seed, held_out)

    @property
    def classes(self) -> int:
        return len(self.present)


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
    tried. The one chosen is fitted on all rows.
    """
    whiten = Whitening.fit(problem.x)
    x, penalty = whiten(problem.x), whiten.variances.rsqrt()
    chosen, accuracy, start = _choose_strength(problem, x, penalty, strengths)
    best = fit_logistic(x, problem.y, problem.classes, chosen * penalty, start=start)
    notes = () if best.converged else (f"L-BFGS stopped short of the optimum after {best.steps} evaluations",)
    return Fit(lambda rows: best.predict(whiten(rows)), {"l2": chosen}, accuracy, notes)


def _choose_strength(
    problem: _Problem, x: Tensor, penalty: Tensor, strengths: Sequence[float]
) -> tuple[float, float | None, Logistic | None]:
    """The best strength, its held-out accuracy, and a model near its optimum to start from."""
    if not problem.held_out:
        return strengths[len(strengths) // 2], None, None
    models: dict[int, Logistic] = {}
    best, best_score, worse, near = strengths[0], -1.0, 0, None
    gain = 0.0 if len(problem.held_out) > 1 else _GAIN
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


def fit_mlp(problem: _Problem, hidden: int = 256, dropout: float = 0.2, rounds: int = 100, patience: int = 5) -> Fit:
    """One hidden layer of ReLUs on whitened features: Adam at 1e-3, batches of 256 rows.

    After each round, an epoch or at least 50 steps, it is scored on what is held out; it ends when that has not risen
    for `patience` rounds, with the weights of the best one. Where nothing can be held out there are ten rounds.
    """
    whiten = Whitening.fit(problem.x)
    x, device = whiten(problem.x), problem.x.device
    out = problem.part == 0 if problem.held_out else torch.zeros_like(problem.part, dtype=torch.bool)
    learn = (~out).nonzero().flatten().cpu()
    epochs = -(-50 // -(-len(learn) // 256))  # of a round
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("mlp", problem.seed))
        net = nn.Sequential(
            nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, problem.classes)
        ).to(device, x.dtype)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        order = torch_generator("mlp order", problem.seed)
        best, best_score, best_round = copy.deepcopy(net.state_dict()), -1.0, 0
        for number in range(1, (rounds if problem.held_out else 10) + 1):
            net.train()
            for _ in range(epochs):
                for batch in learn[torch.randperm(len(learn), generator=order)].split(256):  # type: ignore[no-untyped-call]
                    optimizer.zero_grad()
                    F.cross_entropy(net(x[batch]), problem.y[batch]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            net.eval()
            score = _accuracy(net, x[out], problem.y[out]) if problem.held_out else float(number)
            if score > best_score:
                best, best_score, best_round = copy.deepcopy(net.state_dict()), score, number
            elif number - best_round >= patience:
                break
    net.load_state_dict(best)
    choice = {"hidden": float(hidden), "epochs": float(best_round * epochs)}
    return Fit(lambda rows: _predict(net, whiten(rows)), choice, best_score if problem.held_out else None)


def _predict(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(2**15)])  # type: ignore[no-untyped-call]


def _accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((_predict(net, x) == y).double().mean())


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
        notes = (f"neighbours are looked for among {most:,} of {len(problem.x):,} rows, drawn by the seed",)

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
