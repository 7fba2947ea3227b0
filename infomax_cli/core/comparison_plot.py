"""Runs side by side as a picture: their losses by step, and what was probed by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomax_cli.core.files import write_atomically
from infomax_cli.ledger import Curve, Entry, Probed, block_losses, same_probes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito 2008: told apart by every kind of sight
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_MARKERS = "osD^vP*X"


def plot_comparison(entries: Sequence[Entry], names: Sequence[str], path: Path) -> None:
    """What `draw_comparison` draws, as a PNG."""
    with write_atomically(path) as temporary:
        draw_comparison(entries, names).savefig(temporary, format="png", dpi=120)


def draw_comparison(entries: Sequence[Entry], names: Sequence[str]) -> Figure:
    """A panel for the losses, and one for each label and protocol that was probed in any of the runs."""
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
    return figure


def _style(place: int) -> dict[str, Any]:
    marker = _MARKERS[(place + place // len(PALETTE)) % len(_MARKERS)]  # of another colour the next time round
    return {"color": PALETTE[place % len(PALETTE)], "marker": marker, "markersize": 4}


def whole_numbers() -> Any:
    """Ticks for an axis of depths or steps, of which there may be a single one."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator("auto", integer=True, min_n_ticks=1)


def _draw_losses(axes: Any, entries: Sequence[Entry]) -> None:
    """What all blocks minimise together; dashed on held-out items. A curve ends in its run's marker, so that one of a
    single point is seen too."""
    for place, entry in enumerate(entries):
        for stage, line, fill in (("train", "-", "full"), ("validation", "--", "none")):
            curve = _summed(block_losses(entry.losses, stage))
            if curve:
                steps, values = zip(*curve, strict=True)
                axes.plot(steps, values, line, fillstyle=fill, linewidth=1.2, markevery=[-1], **_style(place))
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set(xlabel="step", ylabel="loss, all blocks")
    axes.set_title("training solid, validation dashed and hollow", fontsize=9)
    axes.grid(alpha=0.3)


def _summed(blocks: Mapping[int, Curve]) -> Curve:
    """The sum over blocks at the steps that all of them have."""
    if not blocks:
        return ()
    tables = [dict(curve) for curve in blocks.values()]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return tuple((step, sum(table[step] for table in tables)) for step in steps)


def _draw_probe(axes: Any, found: Mapping[int, Probed]) -> None:
    for place, probed in found.items():
        depths = sorted(probed.depths)
        values = [100 * probed.depths[depth] for depth in depths]
        spread = [100 * probed.deviations.get(depth, 0.0) for depth in depths]
        axes.errorbar(depths, values, spread, capsize=2, linewidth=1.2, **_style(place))
    axes.axhline(100 * next(iter(found.values())).chance, color="black", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set(xlabel="depth", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
