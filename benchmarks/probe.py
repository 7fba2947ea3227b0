"""Our linear probe beside scikit-learn's logistic regression, and minibatches beside L-BFGS, on one core.

    OMP_NUM_THREADS=1 python benchmarks/probe.py

Two sets of 128 dimensions and 41 classes:

- syllables: real frames. 10 ms frames of the embedded corpus in the last convolution of an untrained `speech_conv`, the
  class being who of 40 speakers speaks, or that nobody does; tested on other words of theirs;
- mixture: synthetic ones. Correlated dimensions of very different deviation, classes of unequal frequency, which
  overlap, three modes each.

All solvers minimise mean cross-entropy and a ridge of one strength (scikit-learn's C = 1 / (l2 N)) of float32 features:

- ours: whitening, whose time is counted, and L-BFGS to our default tolerance;
- scikit-learn, lbfgs, on standardised features, as it is commonly used, and, for its best chance, on our whitened ones;
  the time of neither is counted. Its tolerance is the largest of a few whose loss is no further above the optimum than
  ours, or than 1e-4;
- scikit-learn on features as they come, with its default tolerance and at most 1000 steps: another optimum.

They take turns; what is compared is the CPU time of the process.

The whole probe is compared too: the strength chosen on a held-out sixth of the rows, from the strongest on until two in
a row are no better, then a fit to all; scikit-learn does the same on standardised features with the same strengths,
each from where the last one ended. Last, the streamed minibatches and L-BFGS fit a larger set of the same kind. All is
written to ``benchmarks/results/probe.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core import classifiers
from infomax_cli.core.api import Item, LabelSpec, Split
from infomax_cli.core.build import build_dataset, build_encoder, resolve
from infomax_cli.core.features import FrozenEncoder, extract
from infomax_cli.core.logistic import Logistic, Whitening, fit_logistic, fit_minibatches
from infomax_cli.core.rows import Rows
from infomax_cli.core.seeds import torch_generator
from infomax_cli.core.table import TableWriter
from infomax_cli.recipe import parse

RESULTS = Path(__file__).parent / "results"
DIMS, CLASSES = 128, 41
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)  # of scikit-learn

RECIPE = {
    "name": "probe",
    "data": {"name": "syllables", "speakers": CLASSES - 1},
    "encoder": {"name": "speech_conv", "channels": DIMS, "context_channels": DIMS, "norm": "channel"},
    "cut": "each",
    "loss": {"name": "infonce"},
    "train": {"steps": 1, "batch": 4, "workers": 0},
}

Found = TypeVar("Found")
Predict = Callable[[Tensor], Tensor]  # features (N, D) to classes (N,)
Weights = tuple[Tensor, Tensor]  # (K, D), (K,)
Set = tuple[Tensor, Tensor]  # features (N, D), classes (N,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=70_000, help="at most 83,776 of syllables")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--l2", type=float, default=1e-4)
    parser.add_argument("--large", type=int, default=600_000, help="rows of the set that is streamed")
    given = parser.parse_args()
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread of torch",
        "torch": torch.__version__,
        "rows": given.rows,
        "dims": DIMS,
        "classes": CLASSES,
        "l2": given.l2,
        "solvers": {name: compare(*make(given.rows), given.l2, given.repeats) for name, make in SETS.items()},
        "whole": {name: whole_probe(*make(given.rows), given.repeats) for name, make in SETS.items()},
        "streams": stream(given.large, given.l2),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "probe.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{given.rows:,} rows, {DIMS} dims, {CLASSES} classes, l2 {given.l2:g}; medians of {given.repeats}\n")
    for name, rows in result["solvers"].items():
        print(f"{name}\n\n{table(rows)}\n\n{table(result['whole'][name])}\n")
    print(table(result["streams"]), f"\n\nwritten: {file}")


def frames(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features ``(N, D)`` and classes ``(N,)``."""
    fixed, random = torch_generator("probe benchmark"), torch_generator("probe benchmark", seed)
    frequency = (1.2 * torch.randn(CLASSES, generator=fixed)).softmax(0)
    modes = 0.4 * torch.randn(CLASSES, 3, DIMS, generator=fixed)
    mix = torch.randn(DIMS, DIMS, generator=fixed) * torch.logspace(0, -2, DIMS) / DIMS**0.5
    y = torch.multinomial(frequency, count, True, generator=random)
    x = modes[y, torch.randint(3, (count,), generator=random)]
    return (x.add_(torch.randn(count, DIMS, generator=random)) @ mix).relu_(), y


def mixture(rows: int) -> tuple[Set, Set]:
    return frames(rows, 0), frames(rows // 4, 1)


class Voices:
    """Words of `syllables`, their label being who speaks in each frame: 0 is silence."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        item = self.split[key]
        phone = torch.as_tensor(item.labels["phone"])
        voice = torch.where(phone > 0, 1 + int(item.labels["speaker"]), phone)
        return Item(item.input, {"voice": voice}, item.id)

    def item_labels(self, name: str) -> list[int]:
        return list(self.split.item_labels(name))


def syllables(rows: int) -> tuple[Set, Set]:
    recipe = resolve(parse(RECIPE, "probe.yaml"))
    data = build_dataset(recipe)
    data.download(Path())
    device = torch.device("cpu")
    source = FrozenEncoder(build_encoder(recipe, device), recipe.sampling, device, [4])
    found = []
    for name in ("train", "seen"):
        voice = {"voice": LabelSpec(CLASSES, hop=160, offset=200.0)}
        (kept,) = extract(source, Voices(data.split(Path(), name)), voice).rows["voice"]
        found.append((kept.features, kept.labels))
    (x, y), tested = found
    some = torch.randperm(len(x), generator=torch_generator("some"))[:rows]
    return (x[some], y[some]), tested


SETS: Mapping[str, Callable[[int], tuple[Set, Set]]] = {"syllables": syllables, "mixture": mixture}


# --- solvers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solver:
    """`view` is what it sees of the features, `solve` fits them."""

    name: str
    view: Callable[[Tensor], Tensor]
    solve: Callable[[], Weights]
    tolerance: float | None = None


def compare(learnt: Set, tested: Set, l2: float, repeats: int) -> list[dict[str, Any]]:
    """A row for each solver; ratios are to ours, of the same turn."""
    x, y = learnt
    mean, deviation, whiten = x.mean(0), x.std(0, correction=0), Whitening.fit(x)

    def ours() -> Weights:
        fitted = fit_logistic(Whitening.fit(x)(x), y, CLASSES, l2)
        return fitted.weight, fitted.bias

    def optimum(seen: Tensor) -> float:
        return objective(fit_logistic(seen, y, CLASSES, l2, tolerance=2e-5), seen, y, l2)

    least = optimum(whiten(x))
    excess = max(1e-4, objective(ours(), whiten(x), y, l2) - least)
    solvers = [Solver("ours", whiten, ours)]
    bests: dict[str, float | None] = {"ours": least}
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "standardised": lambda x: (x - mean) / deviation,
        "whitened": whiten,
    }
    for name, view in views.items():
        seen = view(x)
        best = optimum(seen)
        for tolerance in TOLERANCES:
            solve = functools.partial(scikit_learn, seen, y, l2, tolerance)
            if objective(solve(), seen, y, l2) <= best + excess:
                break
        solvers.append(Solver(f"scikit-learn, {name}", view, solve, tolerance))
        bests[solvers[-1].name] = best
    raw = functools.partial(scikit_learn, x, y, l2, 1e-4, 1000)
    solvers.append(Solver("scikit-learn, as they come", lambda x: x, raw, 1e-4))
    turns = [{solver.name: timed(solver.solve) for solver in solvers} for _ in range(repeats)]
    return [result(solver, [turn[solver.name] for turn in turns], [turn["ours"].cpu for turn in turns],
                   learnt, tested, l2, bests.get(solver.name)) for solver in solvers]  # fmt: skip


def result(
    solver: Solver,
    turns: Sequence[Timed[Weights]],
    ours: Sequence[float],
    learnt: Set,
    tested: Set,
    l2: float,
    best: float | None,
) -> dict[str, Any]:
    ratios = [turn.cpu / own for turn, own in zip(turns, ours, strict=True)]
    loss = objective(turns[0].found, solver.view(learnt[0]), learnt[1], l2)
    return {
        "solver": solver.name,
        "cpu_s": statistics.median(turn.cpu for turn in turns),
        "wall_s": statistics.median(turn.wall for turn in turns),
        "times_ours": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "above_optimum": None if best is None else loss - best,
        "accuracy": accuracy(turns[0].found, solver.view(tested[0]), tested[1]),
        "tolerance": solver.tolerance,
    }


def scikit_learn(x: Tensor, y: Tensor, l2: float, tolerance: float, steps: int = 5000) -> Weights:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (l2 * len(x)), tol=tolerance, max_iter=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x.numpy(), y.numpy())
    return torch.from_numpy(np.asarray(model.coef_)).float(), torch.from_numpy(np.asarray(model.intercept_)).float()


@dataclass(frozen=True)
class Timed(Generic[Found]):
    """What a solver found, and its seconds on the CPU and on the clock."""

    found: Found
    cpu: float
    wall: float


def timed(solve: Callable[[], Found]) -> Timed[Found]:
    cpu, wall = time.process_time(), time.perf_counter()
    found = solve()
    return Timed(found, time.process_time() - cpu, time.perf_counter() - wall)


def objective(fitted: Logistic | Weights, x: Tensor, y: Tensor, l2: float | Tensor) -> float:
    weight, bias = (fitted.weight, fitted.bias) if isinstance(fitted, Logistic) else fitted
    entropy = sum(float(F.cross_entropy(part @ weight.T + bias, own, reduction="sum"))
                  for part, own in zip(x.split(2**15), y.split(2**15), strict=True))  # fmt: skip
    return entropy / len(x) + 0.5 * float((l2 * weight.square()).sum())


def accuracy(fitted: Weights, x: Tensor, y: Tensor) -> float:
    weight, bias = fitted
    return float(((x @ weight.T + bias).argmax(1) == y).double().mean())


# --- the whole probe -------------------------------------------------------------------------------------------------


def whole_probe(learnt: Set, tested: Set, repeats: int) -> list[dict[str, Any]]:
    """The strength chosen, then a fit to all rows: ours, and the same steps with scikit-learn."""
    solvers: dict[str, Callable[[], Predict]] = {
        "ours": functools.partial(our_probe, learnt),
        "scikit-learn, standardised": functools.partial(scikit_learn_probe, learnt),
    }
    turns = [{name: timed(solve) for name, solve in solvers.items()} for _ in range(repeats)]
    found = []
    for name in solvers:
        ratios = [turn[name].cpu / turn["ours"].cpu for turn in turns]
        predict = turns[0][name].found
        found.append(
            {
                "whole probe": name,
                "cpu_s": statistics.median(turn[name].cpu for turn in turns),
                "times_ours": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "accuracy": float((predict(tested[0]) == tested[1]).double().mean()),
            }
        )
    return found


def our_probe(learnt: Set) -> Predict:
    x, y = learnt
    rows = Rows(x, y, torch.arange(len(x)))
    return classifiers.fit("linear", rows, seed=0, device=torch.device("cpu")).predict


def scikit_learn_probe(learnt: Set) -> Predict:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    x, y = scaler.fit_transform(learnt[0].numpy()), learnt[1].numpy()
    out = classifiers.parts(torch.arange(len(x)), classifiers.PARTS, 0).numpy() == 0
    kept = int((~out).sum())
    model = LogisticRegression(warm_start=True, max_iter=1000)
    best, chosen, worse = -1.0, classifiers.STRENGTHS[0], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for strength in classifiers.STRENGTHS:
            model.set_params(C=1 / (strength * kept)).fit(x[~out], y[~out])
            score = float(model.score(x[out], y[out]))
            if score > best + classifiers.GAIN:
                best, chosen, worse = score, strength, 0
            else:
                worse += 1
            if worse == 2:
                break
        model.set_params(C=1 / (chosen * len(x))).fit(x, y)
    return lambda asked: torch.from_numpy(model.predict(scaler.transform(asked.numpy())))


# --- streams ---------------------------------------------------------------------------------------------------------


def stream(rows: int, l2: float) -> list[dict[str, Any]]:
    """Minibatches from a file, started on an eighth of the rows, and L-BFGS on all of them in memory."""
    (x, y), (asked, right) = frames(rows, 2), frames(20_000, 3)
    writer = TableWriter("frames")
    writer.to_file()
    for part in x.split(10_000):
        writer.add(part)
    kept = Rows(writer.finish(), y, torch.arange(rows))
    drawn = torch.randperm(rows, generator=torch_generator("drawn"))[: rows // 8].sort().values
    whiten = Whitening.fit(kept.take(drawn))
    order = torch_generator("order")

    def sample() -> Weights:
        nonlocal start
        start = fit_logistic(whiten(kept.take(drawn)), y[drawn], CLASSES, l2)
        return start.weight, start.bias

    def minibatches() -> Weights:
        found = fit_minibatches(
            lambda: ((whiten(part), y[places]) for places, part in kept.shuffled(order)),
            rows, whiten(kept.take(drawn)), torch.full((whiten.dims,), l2), start=start,
        )  # fmt: skip
        return found.weight, found.bias

    def all_rows() -> Weights:
        found = fit_logistic(white, y, CLASSES, l2, start=start)
        return found.weight, found.bias

    start = Logistic(torch.empty(0), torch.empty(0), 0.0, 0, False)
    white = whiten(x)
    found = []
    for name, solve in {"sample of 1/8": sample, "minibatches": minibatches, "L-BFGS": all_rows}.items():
        took = timed(solve)
        found.append(
            {
                "solver": name,
                "rows": rows,
                "cpu_s": took.cpu,
                "wall_s": took.wall,
                "cpu_s_per_million_rows": took.cpu / rows * 1e6,
                "loss": objective(took.found, white, y, l2),
                "accuracy": accuracy(took.found, whiten(asked), right),
            }
        )
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = ["" if row[name] is None else f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name])
                 for name in columns]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
