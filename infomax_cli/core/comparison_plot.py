"""Runs side by side as a picture: their losses by step, and what was probed by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infomax_cli.core.files import write_atomically
from infomax_cli.ledger import Curve, Entry, Probed, block_losses, same_probes

# Okabe & Ito 2008: told apart by every kind of sight
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_MARKERS = "osD^vP*X"


def plot_comparison(entries: Sequence[Entry], names: Sequence[str], path: Path) -> None:
    """A panel for the losses, where any were logged, and one for each label and protocol that was probed in any of the
    runs; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probed = same_probes(entries)
    panels = 1 + len(probed)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    _draw_losses(axes[0], entries)
    for panel, ((label, protocol), found) in zip(axes[1:], probed.items(), strict=False):
        _draw_probe(panel, found)
        panel.set_title(f"{label}\n{protocol}", fontsize=9)
    for panel in axes[panels:]:
        panel.set_axis_off()
    styles = [_style(place) for place in range(len(names))]
    handles = [axes[0].plot([], [], label=name, **style)[0] for name, style in zip(names, styles, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(names)), fontsize=8)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _style(place: int) -> dict[str, Any]:
    return {"color": PALETTE[place % len(PALETTE)], "marker": _MARKERS[place % len(_MARKERS)], "markersize": 4}


def _draw_losses(axes: Any, entries: Sequence[Entry]) -> None:
    """What all blocks minimise together; dashed on held-out items."""
    for place, entry in enumerate(entries):
        for stage, line in (("train", "-"), ("validation", "--")):
            curve = _summed(block_losses(entry.losses, stage))
            if curve:
                axes.plot(*zip(*curve, strict=True), line, color=_style(place)["color"], linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss, all blocks")
    axes.set_title("training solid, validation dashed", fontsize=9)
    axes.grid(alpha=0.3)


def _summed(blocks: Mapping[int, Curve]) -> Curve:
    """The sum over blocks at the steps that all of them have."""
    if not blocks:
        return ()
    tables = [dict(curve) for curve in blocks.values()]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return tuple((step, sum(table[step] for table in tables)) for step in steps)


def _draw_probe(axes: Any, found: Mapping[int, Probed]) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, probed in found.items():
        depths = sorted(probed.depths)
        values = [100 * probed.depths[depth] for depth in depths]
        spread = [100 * probed.deviations.get(depth, 0.0) for depth in depths]
        axes.errorbar(depths, values, spread, capsize=2, linewidth=1.2, **_style(place))
    axes.axhline(100 * next(iter(found.values())).chance, color="black", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="depth", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
