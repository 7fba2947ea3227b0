"""Pictures for people. matplotlib is imported when one is drawn, and never asks for a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from infomax_cli.core.captions import wrapped
from infomax_cli.core.comparison_plot import whole_numbers
from infomax_cli.core.files import write_atomically
from infomax_cli.core.probe_result import ProbeResult
from infomax_cli.wording import count_of

_LINES = {"trained": ("trained", "o-", "C0"), "random": ("untrained", "s--", "C7")}


def plot_depths(result: ProbeResult, path: Path, title: str) -> None:
    """Accuracy by depth, trained and untrained, with the other baselines and chance as lines across; a PNG.

    `title` names what was probed: the run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for source, (name, line, color) in _LINES.items():
        if scores := result.of(source):
            axes.errorbar(
                [score.depth or 0 for score in scores],
                [100 * score.accuracy for score in scores],
                [100 * (score.deviation or 0) for score in scores],
                fmt=line,
                color=color,
                label=name,
                capsize=2,
            )
    for place, score in enumerate(score for score in result.scores if score.depth is None):
        axes.axhline(100 * score.accuracy, label=score.layer, color=f"C{place + 1}", linestyle="-.", linewidth=1)
    axes.axhline(100 * result.chance, label="chance", color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="depth", ylabel="test accuracy (%)", title=_headed(title, f"{result.label}, {describe(result)}", 6))
    axes.xaxis.set_major_locator(whole_numbers())
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_few_labels(results: Sequence[ProbeResult], path: Path, title: str) -> None:
    """Accuracy by labels a class, a line a depth and dashed ones for what is beside them; a PNG. All labels, where they
    are among `results`, stand at the right."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first = results[0]
    trained = first.of("trained")
    for score in first.scores:
        line = [
            own for result in results for own in result.scores if (own.source, own.layer) == (score.source, score.layer)
        ]
        shade = (
            colormaps["viridis"](0.9 * trained.index(score) / max(1, len(trained) - 1)) if score in trained else None
        )
        axes.errorbar(
            range(len(line)),
            [100 * own.accuracy for own in line],
            [100 * (own.deviation or 0) for own in line],
            fmt="o-" if score in trained else "s--",
            color=shade,
            linewidth=1.2,
            markersize=4,
            capsize=2,
            label=f"depth {score.layer}"
            if score in trained
            else f"untrained {score.layer}"
            if score.source == "random"
            else score.layer,
        )
    axes.axhline(100 * first.chance, label="chance", color="black", linestyle=":", linewidth=1)
    counts = ["all" if result.labels_per_class is None else str(result.labels_per_class) for result in results]
    axes.set_xticks(range(len(counts)), counts)
    named = f"{first.label}, {describe(replace(first, labels_per_class=None))}"
    axes.set(xlabel="labels a class", ylabel="test accuracy (%)", title=_headed(title, named, 7))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _headed(title: str, probed: str, inches: float) -> str:
    """A title of two parts, each as wide as a figure so wide has room for."""
    return wrapped(f"{title}\n{probed}", inches, 12)


def describe(result: ProbeResult) -> str:
    """How it was probed, in a few words."""
    words = [result.classifier]
    words += [] if result.protocol == "optimum" else [f"protocol {result.protocol}"]
    words += [] if result.aligned else [f"pool {result.pool}"]
    words += [f"{count_of(result.labels_per_class, 'label')} a class"] if result.labels_per_class else []
    words += [f"{count_of(result.draws, 'draw')} an item"] if result.draws else []
    return ", ".join(words)
