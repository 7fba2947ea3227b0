"""What `explain` found, as pictures and one page that needs no other file."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from infomax_cli.core.captions import wrapped
from infomax_cli.core.explain import Explained
from infomax_cli.core.explanation import HEADER, Explanation
from infomax_cli.core.files import write_atomically, write_text
from infomax_cli.errors import CheckpointError

_TOP = 6  # dimensions whose histograms are drawn


def write_explanation(folder: Path, answer: Explanation) -> Path:
    """Its numbers as ``folder/STEM.json``, a picture of each depth, and ``STEM.html``, which is returned.

    Raises `CheckpointError` where they cannot be written.
    """
    question, stem = answer.question, answer.question.stem
    pictures = []
    try:
        write_text(folder / f"{stem}.json", json.dumps(answer.to_dict(), indent=1) + "\n")
        for found, values in zip(answer.depths, answer.values, strict=True):
            pictures.append(folder / f"{question.of_depth(found.depth).stem}.png")
            draw_depth(pictures[-1], f"{answer.run}, depth {found.depth}: {question.label}", found, values)
        if answer.contribution:
            pictures.append(folder / f"{stem}.png")
            draw_contribution(pictures[-1], f"{answer.run}: what dimensions carry", answer.contribution)
        page = folder / f"{stem}.html"
        write_page(page, f"{answer.run}: {question.label}", HEADER, answer.rows(), answer.notes(), pictures)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {folder}: {error.strerror or error}", "make room there, or make it writable"
        ) from error
    return page


def draw_depth(path: Path, title: str, found: Explained, values: Tensor) -> None:
    """One depth: information by dimension, the probe's weights, and the histograms of the most informative dimensions
    beside the standard normal; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    order = np.argsort(found.information)[::-1]
    left.plot(np.asarray(found.information)[order], color="#0072b2")
    left.set(
        xlabel="dimension, the most informative first", ylabel="nats about the label", ylim=(0, None),
        title=f"information (entropy of the label: {found.entropy:.2f} nats)",
    )  # fmt: skip
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    weights = np.abs(np.asarray(found.weights))[:, order]
    image = middle.imshow(weights, aspect="auto", cmap="magma", interpolation="nearest")
    middle.set(xlabel="dimension, in the same order", title="|weight| of the linear probe")
    middle.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(found.classes) <= 20:
        middle.set_yticks(range(len(found.classes)), found.classes, fontsize=7)
    figure.colorbar(image, ax=middle)
    spread = max(4.0, float(values[:, order[:_TOP].tolist()].abs().quantile(0.99)))
    if float(values[:, order[:_TOP].tolist()].abs().max()) < 1:
        spread = 1.0  # all of it far narrower than N(0, 1)
    grid = np.linspace(-spread, spread, 81)
    for dimension in order[:_TOP]:
        right.hist(values[:, dimension].numpy(), grid.tolist(), density=True, histtype="step", label=f"{dimension}")
    right.plot(grid, np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi), color="black", linestyle="--", label="N(0, 1)")
    right.set(xlabel="value", ylabel="density", title="the most informative dimensions")
    right.legend(fontsize=7)
    figure.suptitle(title)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_contribution(path: Path, title: str, scores: Mapping[int, Mapping[int, float]]) -> None:
    """The error left by the number of dimensions replaced, a line a depth; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for depth, left in scores.items():
        axes.plot(list(left), list(left.values()), "o-", markersize=4, label=f"depth {depth}")
    axes.set(xscale="log", xlabel="dimensions replaced", ylabel="share of the error left", ylim=(0, None))
    axes.set_title(wrapped(title, 6, 12))
    counts = sorted({count for left in scores.values() for count in left})
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_page(
    path: Path,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    pictures: Sequence[Path],
) -> None:
    """A table, and notes and pictures below it, written into one HTML file."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    images = "".join(
        f"<img alt='{html.escape(picture.stem)}' src='data:image/png;base64,"
        f"{base64.b64encode(picture.read_bytes()).decode('ascii')}'>"
        for picture in pictures
    )
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    write_text(path, _TEMPLATE.format(title=html.escape(title), head=head, body=body, notes=told, images=images))


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }}
table {{ border-collapse: collapse }} th, td {{ padding: .25rem .7rem; text-align: right }}
img {{ display: block; max-width: 100%; margin-top: 1rem }}
</style></head><body>
<h1>{title}</h1>
<table><tr>{head}</tr>{body}</table>
{notes}
{images}
</body></html>
"""
