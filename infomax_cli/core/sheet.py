"""A sheet of examples out of a dataset, to be looked at: sounds with what is said in them, or images and their classes.

matplotlib is imported when a sheet is drawn, and never asks for a screen.
"""

from __future__ import annotations

import colorsys
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
import torch
from torch import Tensor

from infomax_cli.core.api import CorruptItem, Dataset, DataSpec, Item, LabelSpec, Split, write_atomically
from infomax_cli.core.pictures import spectrogram_image

SOUNDS, IMAGES = 3, 40  # examples on a sheet
_TRIED = 30  # sounds that are looked at to find some with aligned labels
_LONGEST = 4.0  # seconds of a sound that are shown
_GOLDEN = 0.618034  # steps of the hue: classes that follow each other look unlike
_UNKNOWN = "#ffffff"
_NARROW, _WIDE = 19, 150  # letters that there is room for above an image, and above a sound


def draw_sheet(dataset: Dataset, data: DataSpec, root: Path, path: Path, title: str) -> None:
    """Examples of the train split, of as many classes of the first whole-item label as there is room for; a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    split = dataset.split(root, "train")
    sounds = data.axes == ("time",)
    whole = [name for name, spec in data.labels.items() if not spec.aligned]
    items = _examples(split, data, whole[0] if whole else None, SOUNDS if sounds else IMAGES)
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_printable(title))
    if sounds:
        _draw_sounds(figure, items, data)
    else:
        _draw_images(figure, items, data, whole)
    with write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # one that the font lacks is drawn as a box
        figure.savefig(temporary, format="png", dpi=100)


def _examples(split: Split, data: DataSpec, by: str | None, count: int) -> list[Item]:
    """The first items of each class in turn; those first that have aligned labels, where there are such. Corrupt ones
    are passed over."""
    classes: dict[int, list[int]] = {}
    for index, value in enumerate(split.item_labels(by) if by else [0] * len(split)):
        classes.setdefault(value, []).append(index)
    rounds = max(len(members) for members in classes.values())
    order = [members[turn] for turn in range(rounds) for _, members in sorted(classes.items()) if turn < len(members)]
    aligned = [name for name, spec in data.labels.items() if spec.aligned]
    items = [item for index in order[: _TRIED if aligned else 2 * count] if (item := _read(split, index)) is not None]
    items = sorted(items, key=lambda item: -_labelled(item, aligned))[:count]
    return sorted(items, key=lambda item: int(item.labels[by])) if by else items


def _read(split: Split, index: int) -> Item | None:
    try:
        return split[index, None]
    except CorruptItem:
        return None


def _labelled(item: Item, aligned: Sequence[str]) -> int:
    """How many of the aligned labels are known somewhere."""
    return sum(bool((torch.as_tensor(item.labels[name]) >= 0).any()) for name in aligned)


# --- sounds ----------------------------------------------------------------------------------------------------------


def _draw_sounds(figure: Any, items: Sequence[Item], data: DataSpec) -> None:
    aligned = {name: spec for name, spec in data.labels.items() if spec.aligned}
    rate = data.rate or 1
    heights = [1.0, 2.0, *[0.4] * len(aligned)]
    figure.set_size_inches(13, 0.6 + len(items) * (0.7 + 0.75 * sum(heights)))
    for item, part in zip(items, figure.subfigures(len(items), 1, squeeze=False)[:, 0], strict=True):
        wave = item.input[0, : int(_LONGEST * rate)]
        rows = part.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
        seconds = len(wave) / rate
        rows[0].plot(np.arange(len(wave)) / rate, wave.numpy(), linewidth=0.4, color="#225588")
        loudest = max(1e-3, 1.05 * float(wave.abs().max()))
        rows[0].set(ylim=(-loudest, loudest), ylabel="wave")
        caption = _shortened(_caption(item, data, len(wave) < item.input.shape[-1]), _WIDE)
        rows[0].set_title(_printable(caption), fontsize=9, loc="left")
        image = spectrogram_image(wave)[0].flip(0).numpy()
        rows[1].imshow(image, origin="lower", aspect="auto", extent=(0, seconds, 0, rate / 2000), cmap="magma")
        rows[1].set_ylabel("kHz")
        for axes, (name, spec) in zip(rows[2:], aligned.items(), strict=True):
            _draw_strip(axes, torch.as_tensor(item.labels[name]), name, spec, rate, seconds)
        rows[-1].set_xlim(0, seconds)
        rows[-1].set_xlabel("seconds")


def _caption(item: Item, data: DataSpec, is_cut: bool) -> str:
    whole = [
        f"{name} {_name_of(spec, int(item.labels[name]))}" for name, spec in data.labels.items() if not spec.aligned
    ]
    full = f"the first {_LONGEST:g} s of {item.input.shape[-1] / (data.rate or 1):.2f} s" if is_cut else ""
    return ", ".join(filter(None, [item.id, *whole, full]))


@dataclass(frozen=True)
class _Piece:
    """A stretch of one class, in seconds."""

    value: int
    start: float
    end: float


def pieces(values: Tensor, spec: LabelSpec, rate: int, seconds: float) -> list[_Piece]:
    """The stretches of equal value of an aligned label ``(L,)``: each value fills its hop about its centre."""
    assert spec.hop is not None
    starts = (spec.offset + spec.hop * (torch.arange(len(values) + 1) - 0.5)) / rate
    changes = (torch.nonzero(values[1:] != values[:-1]).flatten() + 1).tolist()
    stretches = pairwise([0, *changes, len(values)])
    made = [_Piece(int(values[a]), float(starts[a]), min(float(starts[b]), seconds)) for a, b in stretches if a < b]
    return [piece for piece in made if piece.start < seconds]


def _draw_strip(axes: Any, values: Tensor, name: str, spec: LabelSpec, rate: int, seconds: float) -> None:
    for piece in pieces(values, spec, rate, seconds):
        axes.axvspan(piece.start, piece.end, color=class_colour(piece.value), linewidth=0)
        said = _name_of(spec, piece.value) if piece.value >= 0 else ""
        if piece.end - piece.start > 0.0075 * seconds * max(1, len(said)):  # else it would run into its neighbours
            middle = (piece.start + piece.end) / 2
            axes.text(middle, 0.5, _printable(said), ha="center", va="center", fontsize=8)
    if not bool((values >= 0).any()):
        axes.text(
            0.5, 0.5, "not labelled", transform=axes.transAxes, ha="center", va="center", fontsize=8, color="gray"
        )
    axes.set(yticks=[], ylim=(0, 1))
    axes.set_ylabel(_printable(name), rotation=0, ha="right", va="center")


def class_colour(value: int) -> tuple[float, float, float] | str:
    """Pale enough to be written on; white where the class is unknown."""
    if value < 0:
        return _UNKNOWN
    return colorsys.hls_to_rgb((value * _GOLDEN) % 1.0, 0.72 + 0.08 * (value % 2), 0.75)


# --- images ----------------------------------------------------------------------------------------------------------


def _draw_images(figure: Any, items: Sequence[Item], data: DataSpec, whole: Sequence[str]) -> None:
    columns = min(10, max(1, len(items)))
    rows = -(-len(items) // columns)
    figure.set_size_inches(1.25 * columns + 0.5, 1.5 * rows + 0.6)
    for axes in figure.subplots(rows, columns, squeeze=False).flatten():
        axes.set_axis_off()
    for item, axes in zip(items, figure.axes, strict=False):
        image = _picture(item.input).numpy()
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        names = [_name_of(data.labels[name], int(item.labels[name])) for name in whole]
        axes.set_title(_printable(_shortened(", ".join(names), _NARROW)), fontsize=8)


def _picture(x: Tensor) -> Tensor:
    """``(C, H, W)`` as it is drawn: ``(H, W, 3)``, or one channel ``(H, W)``; other data than images, scaled."""
    if x.shape[0] not in (1, 3):
        x = x[:1]
    low, high = x.amin(), x.amax()
    if low < 0 or high > 1:
        x = (x - low) / (high - low).clamp_min(1e-9)
    return x[0] if x.shape[0] == 1 else x.movedim(0, -1)


def _name_of(spec: LabelSpec, value: int) -> str:
    if value < 0:
        return "unknown"
    return spec.names[value] if value < len(spec.names) else str(value)


def _shortened(text: str, most: int) -> str:
    """At most as wide as so many letters; those of Chinese and the like are twice as wide."""
    widths = list(accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in text))
    return text if not widths or widths[-1] <= most else f"{text[: bisect_right(widths, most - 1)]}…"


def _printable(text: str) -> str:
    """Not taken for a formula, and without bytes that no letter stands for."""
    return text.replace("$", r"\$").encode(errors="replace").decode()
