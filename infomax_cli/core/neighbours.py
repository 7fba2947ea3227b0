"""Nearest neighbours: which training items a frozen encoder takes for the most like some test items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from infomax_cli.core.api import DataSpec, Item, UsageError
from infomax_cli.core.captions import wrapped
from infomax_cli.core.files import write_atomically
from infomax_cli.core.pictures import spectrogram_image
from infomax_cli.core.rows import Rows
from infomax_cli.core.seeds import torch_generator
from infomax_cli.core.table import rows_of

if TYPE_CHECKING:
    from infomax_cli.core.probe_result import ProbeResult
    from infomax_cli.core.subject import Subject

NEIGHBOURS = 8  # of each query
_PART = 2**22  # values that are compared at a time
_RIGHT, _WRONG = "#0072b2", "#d55e00"  # blue and vermilion, told apart by any eye (Okabe and Ito 2008)


@dataclass(frozen=True)
class Neighbour:
    """A training item: its index in the split, its class, and its cosine similarity to the query."""

    item: int
    label: int
    cosine: float


@dataclass(frozen=True)
class Query:
    """A test item and the training items that are nearest to it, the nearest first."""

    item: int
    label: int
    neighbours: tuple[Neighbour, ...]

    @property
    def right(self) -> int:
        """How many of them are of its class."""
        return sum(each.label == self.label for each in self.neighbours)


@dataclass(frozen=True)
class Sheet:
    """The queries of one layer; the same in all layers."""

    layer: str
    queries: tuple[Query, ...]

    @property
    def right(self) -> float:
        """The share of neighbours that are of their query's class."""
        return sum(query.right for query in self.queries) / sum(len(query.neighbours) for query in self.queries)


def find_neighbours(layer: str, train: Rows, test: Rows, count: int, seed: int, device: torch.device) -> Sheet:
    """For `count` test items, drawn by the seed, the training items of highest cosine similarity.

    As in the kNN probe each dimension is first brought to mean 0 and variance 1 over the training items. Rows have one
    item each. Raises `UsageError` where there are fewer items than asked for.
    """
    if count > len(test):
        raise UsageError(f"--neighbours {count}: only {len(test):,} test items have the label", "ask for fewer")
    drawn = torch.randperm(len(test), generator=torch_generator("neighbours", seed))[:count]
    mean, deviation = _moments(train)
    queries = F.normalize((test.take(drawn) - mean) / deviation, dim=1).to(device)
    size = rows_of(_PART, train.dims)
    near = torch.cat(
        [
            (queries @ F.normalize((train.take(places) - mean) / deviation, dim=1).to(device).T).cpu()
            for places in torch.arange(len(train)).split(size)  # type: ignore[no-untyped-call]
        ],
        1,
    ).topk(min(NEIGHBOURS, len(train)), dim=1)
    return Sheet(
        layer,
        tuple(
            Query(
                int(test.items[place]),
                int(test.labels[place]),
                tuple(
                    Neighbour(int(train.items[index]), int(train.labels[index]), cosine)
                    for index, cosine in zip(near.indices[row].tolist(), near.values[row].tolist(), strict=True)
                ),
            )
            for row, place in enumerate(drawn.tolist())
        ),
    )


def _moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension, a part at a time."""
    total, squares = torch.zeros(rows.dims, dtype=torch.float64), torch.zeros(rows.dims, dtype=torch.float64)
    for part in rows.parts():
        total += part.double().sum(0)
    mean = total / len(rows)
    for part in rows.parts():
        squares += (part.double() - mean).square().sum(0)
    return mean.float(), (squares / len(rows)).sqrt().float().clamp_min(1e-8)


def draw_sheet(path: Path, title: str, sheet: Sheet, subject: Subject, result: ProbeResult) -> None:
    """A row a query: the query, then its neighbours, each with its class and cosine; a PNG.

    Neighbours of the query's class have a solid blue frame and a tick, others a dashed vermilion one and a cross.
    Images are shown as they are, sounds as spectrograms.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data, names = subject.data, subject.data.labels[result.label].names
    train, test = (subject.split(name) for name in (result.train_split, result.test_split))
    columns = 1 + max(len(query.neighbours) for query in sheet.queries)
    figure = Figure(figsize=(1.25 * columns + 0.4, 1.45 * len(sheet.queries) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(sheet.queries), columns, squeeze=False, gridspec_kw={"width_ratios": [1.25] + [1] * (columns - 1)}
    )
    for row, query in zip(panels, sheet.queries, strict=True):
        _show(row[0], test[query.item, None], data)
        row[0].set_title(_name(names, query.label), fontsize=9, fontweight="bold", pad=3)
        for panel, found in zip(row[1:], query.neighbours, strict=False):
            right = found.label == query.label
            _show(panel, train[found.item, None], data)
            panel.set_title(
                f"{'✓' if right else '✗'} {_name(names, found.label)} {found.cosine:.2f}",
                fontsize=7,
                pad=3,
                color=_RIGHT if right else _WRONG,
            )
            for side in panel.spines.values():
                side.set(visible=True, color=_RIGHT if right else _WRONG, linewidth=2)
                side.set_linestyle("-" if right else (0, (3, 2)))
        for panel in row[1 + len(query.neighbours) :]:
            panel.axis("off")
    told = (
        f"{title}\nqueries from {result.test_split} at the left, their nearest of {result.train_split} by cosine: "
        f"{100 * sheet.right:.0f} % of the same class"
    )
    figure.suptitle(wrapped(told, figure.get_figwidth(), 9), fontsize=9)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _name(names: Sequence[str], value: int) -> str:
    return names[value] if value < len(names) else str(value)


def _show(panel: object, item: Item, data: DataSpec) -> None:
    """An image, or a sound's spectrogram, without ticks."""
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    panel.set_xticks([])
    panel.set_yticks([])
    for side in panel.spines.values():
        side.set_visible(False)
    x = item.input.float().cpu()
    if x.dim() == 3 and x.shape[0] in (1, 3):
        pixels = x.clamp(0, 1).permute(1, 2, 0).numpy()  # (H, W, C)
        panel.imshow(
            pixels[..., 0] if x.shape[0] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
    elif data.axes == ("time",):
        panel.imshow(spectrogram_image(x[0])[0].numpy(), cmap="magma", aspect="auto", interpolation="nearest")
    else:
        panel.text(0.5, 0.5, item.id, ha="center", va="center", fontsize=6, wrap=True)
