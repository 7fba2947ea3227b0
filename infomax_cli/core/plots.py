"""Pictures for people. matplotlib is imported when one is drawn, and never asks for a screen."""

from __future__ import annotations

from pathlib import Path

from infomax_cli.core.files import write_atomically
from infomax_cli.core.probe_result import ProbeResult

_LINES = {"trained": ("trained", "o-", "C0"), "random": ("untrained", "s--", "C7")}


def plot_depths(result: ProbeResult, path: Path, title: str) -> None:
    """Accuracy by depth, trained and untrained, with the other baselines and chance as lines across; a PNG.

    `title` names what was probed: the run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
    axes.set(xlabel="depth", ylabel="test accuracy (%)", title=f"{title}\n{result.label}, {describe(result)}")
    if len(result.depths) > 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xticks(result.depths)
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def describe(result: ProbeResult) -> str:
    """How it was probed, in a few words."""
    words = [result.classifier]
    words += [] if result.protocol == "optimum" else [f"protocol {result.protocol}"]
    words += [] if result.aligned else [f"pool {result.pool}"]
    words += [f"{result.labels_per_class} labels a class"] if result.labels_per_class else []
    return ", ".join(words)
