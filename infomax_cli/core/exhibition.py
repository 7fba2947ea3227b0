"""Sounds or images side by side: a file each, a PNG of all (of sounds the spectrograms), and one page that needs no
other file, on which sounds have players."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.audio import write_wav
from infomax_cli.core.captions import wrapped
from infomax_cli.core.files import write_atomically, write_text
from infomax_cli.core.media import Medium
from infomax_cli.errors import CheckpointError

Pixels = npt.NDArray[np.float32]

_WINDOW, _HOP = 0.025, 0.005  # seconds, of the spectrograms
_RANGE = 70  # decibels below the loudest that are shown


@dataclass(frozen=True)
class Piece:
    """A sound ``(1, T)`` or an image ``(C, H, W)`` under a `title`; `name` is that of its file, without its ending."""

    title: str
    name: str
    content: Tensor


@dataclass(frozen=True)
class Row:
    """Pieces that belong together."""

    title: str
    pieces: Sequence[Piece]


def pieces_of(rows: Sequence[Row]) -> list[Piece]:
    """Every piece once: those of one name, such as an original beside what each depth makes of it, are alike."""
    return list({piece.name: piece for row in rows for piece in row.pieces}.values())


def count_clipped(rows: Sequence[Row], medium: Medium) -> int:
    """How many sounds reach beyond [-1, 1], which their files cannot hold. Images are looked at, not measured."""
    if medium.rate is None:
        return 0
    return sum(bool(piece.content.abs().max() > 1) for piece in pieces_of(rows))


def describe_clipped(clipped: int, rows: Sequence[Row]) -> str:
    """What there is to say of them; nothing where there are none."""
    if not clipped:
        return ""
    return f"{clipped} of {len(pieces_of(rows))} sounds reach beyond [-1, 1], and are clipped in their files"


def write_exhibition(
    folder: Path, stem: str, title: str, rows: Sequence[Row], medium: Medium, note: str = ""
) -> list[Path]:
    """Every piece as ``folder/NAME.wav`` or ``.png``, then ``folder/STEM.png`` and ``folder/STEM.html``, which are
    returned. The `note` stands below the title of the page.

    Raises `CheckpointError` where they cannot be written.
    """
    picture, page = folder / f"{stem}.png", folder / f"{stem}.html"
    try:
        for piece in pieces_of(rows):
            if medium.rate is not None:
                write_wav(folder / f"{piece.name}.wav", piece.content[0], medium.rate)
            else:
                with write_atomically(folder / f"{piece.name}.png") as temporary:
                    temporary.write_bytes(_png(piece.content))
        _draw(picture, title, rows, medium)
        write_text(page, _page(title, rows, medium, picture.read_bytes(), note))
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


def _draw(path: Path, title: str, rows: Sequence[Row], medium: Medium) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.pieces) for row in rows)
    width, height = (2.6, 1.7) if medium.rate is not None else (1.4, 1.6)
    figure = Figure(figsize=(width * columns + 0.6, height * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for place, row in enumerate(rows):
        for axes in grid[place][len(row.pieces) :]:
            axes.set_axis_off()
        shown = zip(grid[place], row.pieces, strict=False)
        for axes, piece in shown:
            axes.set_title(piece.title, fontsize=8)
            axes.tick_params(labelsize=6)
        if medium.rate is not None:
            _draw_sounds(grid[place], row, medium.rate, last=place == len(rows) - 1)
        else:
            _draw_images(grid[place], row)
    figure.suptitle(wrapped(title, figure.get_figwidth(), 9), fontsize=9)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_sounds(axes: Sequence[Any], row: Row, rate: int, *, last: bool) -> None:
    """Spectrograms on one scale."""
    shown = [spectrogram(piece.content[0], rate) for piece in row.pieces]
    top = max(float(values.max()) for values in shown)
    for one, values, piece in zip(axes, shown, row.pieces, strict=False):
        one.imshow(
            values, origin="lower", aspect="auto", cmap="magma", vmin=top - _RANGE, vmax=top,
            extent=(0, piece.content.shape[-1] / rate, 0, rate / 2000), interpolation="nearest",
        )  # fmt: skip
        if last:
            one.set_xlabel("s", fontsize=7)
    axes[0].set_ylabel(f"{row.title}\nkHz" if row.title else "kHz", fontsize=7)


def _draw_images(axes: Sequence[Any], row: Row) -> None:
    for one, piece in zip(axes, row.pieces, strict=False):
        one.imshow(_pixels(piece.content), interpolation="nearest")
        one.set(xticks=[], yticks=[])
    axes[0].set_ylabel(row.title, fontsize=7)


def _page(title: str, rows: Sequence[Row], medium: Medium, picture: bytes, note: str) -> str:
    """HTML that holds everything: pieces and picture are written into it."""
    head = "".join(f"<th>{html.escape(piece.title)}</th>" for piece in rows[0].pieces) if _share_titles(rows) else ""
    body = []
    for row in rows:
        cells = []
        for piece in row.pieces:
            label = "" if head else f"<span>{html.escape(piece.title)}</span>"
            cells.append(f"<td>{label}{_element(piece, medium)}</td>")
        body.append(f"<tr><th>{html.escape(row.title)}</th>{''.join(cells)}</tr>")
    heading = f"<tr><th></th>{head}</tr>" if head else ""
    # the picture adds nothing to images that stand there already
    below = (
        f'<img class="all" alt="spectrograms" src="{_url("image/png", picture)}">' if medium.rate is not None else ""
    )
    told = f"<p>{html.escape(note)}</p>" if note else ""
    return _TEMPLATE.format(title=html.escape(title), note=told, table=heading + "\n".join(body), below=below)


def _element(piece: Piece, medium: Medium) -> str:
    if medium.rate is not None:
        return f"<audio controls preload=none src='{_url('audio/wav', _wav(piece.content[0], medium.rate))}'></audio>"
    return f"<img class=piece alt='{html.escape(piece.title)}' src='{_url('image/png', _png(piece.content))}'>"


def _share_titles(rows: Sequence[Row]) -> bool:
    titles = [[piece.title for piece in row.pieces] for row in rows]
    return all(own == titles[0] for own in titles)


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _wav(samples: Tensor, rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _png(image: Tensor) -> bytes:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, _pixels(image), format="png")
    return file.getvalue()


def _pixels(image: Tensor) -> npt.NDArray[np.float32]:
    """``(C, H, W)`` as ``(H, W, 3)``, clipped to what can be shown."""
    shown: npt.NDArray[np.float32] = image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
    return shown


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }}
table {{ border-collapse: collapse }} th, td {{ padding: .3rem .6rem; text-align: left; font-weight: 500 }}
td span {{ display: block; font-size: .85em; color: #555 }}
audio {{ width: 15rem; height: 2rem }} img.all {{ max-width: 100%; margin-top: 1.5rem }}
img.piece {{ width: 8rem; image-rendering: pixelated }}
.wide {{ overflow-x: auto }}
</style></head><body>
<h1>{title}</h1>
{note}
<div class="wide"><table>{table}</table></div>
{below}
</body></html>
"""
