"""Sounds side by side: WAV files, a PNG of their spectrograms, and one page with players that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.audio import write_wav
from infomax_cli.core.files import write_atomically, write_text
from infomax_cli.errors import CheckpointError

Pixels = npt.NDArray[np.float32]

_WINDOW, _HOP = 0.025, 0.005  # seconds, of the spectrograms
_RANGE = 70  # decibels below the loudest that are shown


@dataclass(frozen=True)
class Sound:
    """Samples ``(T,)`` under a `title`; `name` is that of its file, without its ending."""

    title: str
    name: str
    samples: Tensor


@dataclass(frozen=True)
class Row:
    """Sounds that belong together."""

    title: str
    sounds: Sequence[Sound]


def write_listening(folder: Path, stem: str, title: str, rows: Sequence[Row], rate: int) -> list[Path]:
    """Every sound as ``folder/NAME.wav``, then ``folder/STEM.png`` and ``folder/STEM.html``; returns the last two.

    Raises `CheckpointError` where they cannot be written.
    """
    picture, page = folder / f"{stem}.png", folder / f"{stem}.html"
    try:
        for row in rows:
            for sound in row.sounds:
                write_wav(folder / f"{sound.name}.wav", sound.samples, rate)
        _draw(picture, title, rows, rate)
        write_text(page, _page(title, rows, rate, picture.read_bytes()))
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {folder}: {error.strerror or error}", "make room there, or make it writable"
        ) from error
    return [picture, page]


def spectrogram(samples: Tensor, rate: int) -> Pixels:
    """``(F, frames)`` in decibels."""
    window = min(round(_WINDOW * rate), len(samples))
    hann = torch.hann_window(window)
    spectrum = torch.stft(samples, window, round(_HOP * rate), window=hann, center=False, return_complex=True)
    decibels: Pixels = (20 * (spectrum.abs() + 1e-6).log10()).numpy()
    return decibels


def _draw(path: Path, title: str, rows: Sequence[Row], rate: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.sounds) for row in rows)
    figure = Figure(figsize=(2.6 * columns + 0.6, 1.7 * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for place, row in enumerate(rows):
        shown = [spectrogram(sound.samples, rate) for sound in row.sounds]
        top = max(float(values.max()) for values in shown)
        for column, axes in enumerate(grid[place]):
            if column >= len(row.sounds):
                axes.set_axis_off()
                continue
            sound = row.sounds[column]
            axes.imshow(
                shown[column], origin="lower", aspect="auto", cmap="magma", vmin=top - _RANGE, vmax=top,
                extent=(0, len(sound.samples) / rate, 0, rate / 2000), interpolation="nearest",
            )  # fmt: skip
            axes.set_title(sound.title, fontsize=8)
            axes.tick_params(labelsize=6)
            if column == 0:
                axes.set_ylabel(f"{row.title}\nkHz" if row.title else "kHz", fontsize=7)
            if place == len(rows) - 1:
                axes.set_xlabel("s", fontsize=7)
    figure.suptitle(title, fontsize=9)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _page(title: str, rows: Sequence[Row], rate: int, picture: bytes) -> str:
    """HTML that holds everything: sounds and picture are written into it."""
    head = "".join(f"<th>{html.escape(sound.title)}</th>" for sound in rows[0].sounds) if _share_titles(rows) else ""
    body = []
    for row in rows:
        cells = []
        for sound in row.sounds:
            label = "" if head else f"<span>{html.escape(sound.title)}</span>"
            cells.append(f"<td>{label}<audio controls preload=none src='{_wav_url(sound.samples, rate)}'></audio></td>")
        body.append(f"<tr><th>{html.escape(row.title)}</th>{''.join(cells)}</tr>")
    heading = f"<tr><th></th>{head}</tr>" if head else ""
    image = base64.b64encode(picture).decode("ascii")
    return _TEMPLATE.format(
        title=html.escape(title), table=heading + "\n".join(body), image=f"data:image/png;base64,{image}"
    )


def _share_titles(rows: Sequence[Row]) -> bool:
    titles = [[sound.title for sound in row.sounds] for row in rows]
    return all(own == titles[0] for own in titles)


def _wav_url(samples: Tensor, rate: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }}
table {{ border-collapse: collapse }} th, td {{ padding: .3rem .6rem; text-align: left; font-weight: 500 }}
td span {{ display: block; font-size: .85em; color: #555 }}
audio {{ width: 15rem; height: 2rem }} img {{ max-width: 100%; margin-top: 1.5rem }}
.wide {{ overflow-x: auto }}
</style></head><body>
<h1>{title}</h1>
<div class="wide"><table>{table}</table></div>
<img alt="spectrograms" src="{image}">
</body></html>
"""
