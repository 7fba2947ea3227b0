"""What a probe found: numbers, and the files that keep them."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infomax_cli.card import write_card
from infomax_cli.core.files import write_text
from infomax_cli.core.neighbours import Sheet
from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run


@dataclass(frozen=True, kw_only=True)
class Score:
    """One layer of one source. Accuracies are shares in [0, 1], means over repeats; `deviation` is their sample
    standard deviation (None for one repeat), `choices` what was chosen in each, `hop` is in samples or pixels, `grid`
    the map's where all items have the same: of images."""

    source: str
    layer: str
    depth: int | None
    hop: int | None
    hop_ms: float | None
    dims: int
    train_rows: int
    test_rows: int
    accuracy: float
    balanced_accuracy: float
    train_accuracy: float
    deviation: float | None
    accuracies: tuple[float, ...]
    held_out: float | None
    choices: tuple[Mapping[str, float], ...]
    grid: tuple[int, ...] | None = None

    @property
    def choice(self) -> Mapping[str, float]:
        """What was chosen most often."""
        counts = Counter(tuple(sorted(choice.items())) for choice in self.choices)
        return dict(counts.most_common(1)[0][0])


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One label, read from every layer. `chance` is the accuracy of always naming the commonest training class, `step`
    that of the older checkpoint that was probed, None for the newest; `trained_steps` is how long it was trained, and
    `draws` how many from its Gaussians stood beside each training item. `data` names the dataset where it is not the
    run's own, and `sheets` are the nearest neighbours of some test items, depth by depth, where they were asked for."""

    label: str
    aligned: bool
    classes: int
    train_split: str
    test_split: str
    classifier: str
    protocol: str
    pool: str
    labels_per_class: int | None
    repeats: int
    seed: int
    chance: float
    depths: tuple[int, ...]
    all_depths: bool
    scores: tuple[Score, ...]
    notes: tuple[str, ...]
    step: int | None = None
    trained_steps: int | None = None
    draws: int = 0
    data: str | None = None
    sheets: tuple[Sheet, ...] = ()

    def of(self, source: str) -> tuple[Score, ...]:
        """The scores of ``trained``, ``random``, ``mfcc`` or ``raw``, by depth."""
        return tuple(score for score in self.scores if score.source == source)

    def accuracy(self, source: str = "trained", depth: int | None = None) -> float:
        """Of that depth; without one, the best of the source. `KeyError` where there is none."""
        found = [score.accuracy for score in self.of(source) if depth in (None, score.depth)]
        if not found:
            raise KeyError(f"no score of {source} at depth {depth}")
        return max(found)

    @property
    def stem(self) -> str:
        """The name of its files."""
        return self.series if self.step is None else f"{self.series}-step{self.step}"

    @property
    def series(self) -> str:
        """What tells apart what was probed differently, whatever the step."""
        parts = [self.label, self.classifier, *([] if self.aligned else [self.pool])]
        parts += [f"on-{self.data}"] if self.data else []
        parts += [self.protocol] if self.protocol != "optimum" else []
        parts += [f"n{self.labels_per_class}"] if self.labels_per_class else []
        parts += [f"draws{self.draws}"] if self.draws else []
        parts += [] if self.all_depths else [f"depth{depth}" for depth in self.depths]
        parts += [f"seed{self.seed}"] if self.seed else []
        return re.sub(r"[^\w.-]+", "_", "-".join(parts))

    def sheet_stem(self, sheet: Sheet) -> str:
        """The name of the picture of a sheet, which no classifier has to do with."""
        depth = int(sheet.layer)
        bare = replace(self, classifier="neighbours", protocol="optimum", labels_per_class=None, draws=0)
        return replace(bare, depths=(depth,), all_depths=False).stem

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(measured: Sequence[Mapping[str, float]], choices: Sequence[Mapping[str, float]], **place: Any) -> Score:
    """The score of a layer from what each repeat measured: accuracy, balanced_accuracy, train_accuracy, held_out."""
    accuracies = tuple(one["accuracy"] for one in measured)
    held_out = [one["held_out"] for one in measured if "held_out" in one]
    return Score(
        **place,
        accuracy=statistics.fmean(accuracies),
        balanced_accuracy=statistics.fmean(one["balanced_accuracy"] for one in measured),
        train_accuracy=statistics.fmean(one["train_accuracy"] for one in measured),
        deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        accuracies=accuracies,
        held_out=statistics.fmean(held_out) if held_out else None,
        choices=tuple(dict(choice) for choice in choices),
    )


def write_result(run: Run, result: ProbeResult) -> tuple[Path, Path]:
    """``<run>/probes/<stem>.json`` and ``.png``, TensorBoard's ``probe/...`` scalars, and the run's card anew.

    Raises `CheckpointError` where they cannot be written.
    """
    from infomax_cli.core.plots import plot_depths

    file = run.path / "probes" / f"{result.stem}.json"
    picture = file.with_suffix(".png")
    result = replace(result, scores=(*result.scores, *_baselines_before(file, result)))
    try:
        write_text(file, json.dumps({"run": run.name, **result.to_dict()}, indent=2, ensure_ascii=False) + "\n")
        plot_depths(result, picture, run.name)
        _log_to_tensorboard(run, result)
        if run.recipe_file.exists():
            write_card(run)
    except OSError as error:
        raise CheckpointError(
            f"cannot write what was found to {file.parent}: {error.strerror or error}",
            "make room there, or make it writable; --json prints everything on stdout",
        ) from error
    return file, picture


def _baselines_before(file: Path, result: ProbeResult) -> tuple[Score, ...]:
    """Of sources that `result` does not have, and that an earlier answer to the same question measured."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        kept = [Score(**score) for score in before["scores"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    now = json.loads(json.dumps(result.to_dict()))
    if _question(before) != _question(now):
        return ()
    sources = {score.source for score in result.scores}
    rows = {(score.train_rows, score.test_rows) for score in result.scores}
    return tuple(score for score in kept if score.source not in sources and (score.train_rows, score.test_rows) in rows)


def _question(plain: Mapping[str, Any]) -> dict[str, Any]:
    """All but the answer."""
    return {key: value for key, value in plain.items() if key not in ("run", "scores", "notes", "sheets")}


def write_curve(run: Run, results: Sequence[ProbeResult]) -> tuple[Path, Path]:
    """``<run>/probes/<stem>-few.json`` and ``.png``: accuracy by labels a class. Raises `CheckpointError` as
    `write_result` does, which keeps each of the `results` too."""
    from infomax_cli.core.plots import plot_few_labels

    stem = replace(results[0], labels_per_class=None).stem
    file = run.path / "probes" / f"{stem}-few.json"
    picture = file.with_suffix(".png")
    for result in results:
        write_result(run, result)
    try:
        plain = [result.to_dict() for result in results]
        write_text(file, json.dumps({"run": run.name, "results": plain}, indent=2, ensure_ascii=False) + "\n")
        plot_few_labels(results, picture, run.name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write what was found to {file.parent}: {error.strerror or error}",
            "make room there, or make it writable; --json prints everything on stdout",
        ) from error
    return file, picture


def _log_to_tensorboard(run: Run, result: ProbeResult) -> None:
    from infomax_cli.core.logbook import open_board

    default = result.series == "-".join([result.label, "linear", *([] if result.aligned else ["mean"])])
    name = result.label if default else result.series
    step = _last_step(run) if result.step is None else result.step
    with open_board(run) as board:
        for score in result.scores:
            place = [] if score.source == "trained" else [score.source]
            place += [] if score.depth is None else [str(score.depth)]
            board.add_scalar("/".join(["probe", name, *place]), score.accuracy, step)


def _last_step(run: Run) -> int:
    """The step that the run's log ends at; 0 where there is none."""
    try:
        return int(json.loads(run.metrics.read_text(encoding="utf-8").splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return 0
