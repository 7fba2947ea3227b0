"""Points of the plane as a picture that may be printed: a panel a depth, colours told apart by every kind of sight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from infomax_cli.core.captions import wrapped
from infomax_cli.core.cloud import Cloud, named
from infomax_cli.core.comparison_plot import PALETTE
from infomax_cli.core.files import write_atomically
from infomax_cli.wording import count_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>hp"  # the page draws the same
OTHERS = "#999999", "."


def style_of(place: int) -> tuple[str, str]:
    """The colour and the marker of a class, by its place among those shown: more classes than colours differ in their
    markers. Those for which no pair is left are `OTHERS`."""
    marker, color = divmod(place, len(PALETTE))
    return (PALETTE[color], MARKERS[marker]) if marker < len(MARKERS) else OTHERS


def draw_planes(cloud: Cloud, planes: Sequence[Tensor], titles: Sequence[str], heading: str) -> Figure:
    """A panel for each of `planes` ``(N, 2)``, under its title, and one legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = cloud.classes
    shown = sorted(set(classes.tolist()))
    names = _named(cloud, shown)
    beside = -(-len(names) // 24)  # columns of the legend
    columns = min(3, len(planes))
    rows = -(-len(planes) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.7 * beside + 0.7, 3.6 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, plane, title in zip(grid, planes, titles, strict=False):
        for place, value in enumerate(shown):
            _draw_class(axes, plane[classes == value], place, len(classes))
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
    for axes in grid[len(planes) :]:
        axes.set_axis_off()
    handles = [_draw_class(grid[0], planes[0][:0], place, 0) for place in range(len(names))]
    figure.legend(
        handles, names, title=cloud.label, loc="outside right center",
        fontsize=7, title_fontsize=8, ncols=beside, markerscale=1.5, frameon=False,
    )  # fmt: skip
    figure.suptitle(wrapped(heading, figure.get_figwidth(), 10), fontsize=10)
    return figure


def _named(cloud: Cloud, shown: Sequence[int]) -> list[str]:
    """The legend's words: a class that has a look of its own, and how many have none."""
    own = len(PALETTE) * len(MARKERS)
    names = [named(cloud.spec, value) for value in shown[:own]]
    return names if len(shown) <= own else [*names, count_of(len(shown) - own, "other")]


def _draw_class(axes: Any, points: Tensor, place: int, count: int) -> Any:
    color, marker = style_of(place)
    size = 14 if count <= 500 else 7 if count <= 3000 else 3
    return axes.scatter(
        *points.T.numpy(), s=size, color=color, marker=marker, alpha=0.8, linewidths=0, rasterized=count > 3000
    )


def write_picture(figure: Figure, path: Path) -> None:
    """A PNG of 200 points an inch."""
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
