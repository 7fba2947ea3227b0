"""Points of the plane as one page that needs no other file: it zooms, tells, filters, and plays what a point is."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from infomax_cli.core.api import CorruptItem, DataSpec, Item, Split
from infomax_cli.core.cloud import Cloud, items_of, named
from infomax_cli.core.comparison_plot import PALETTE
from infomax_cli.core.projector import sheet_of

_LEAST, _MOST = 0.3, 3.0  # seconds of a clip: what is shorter is not heard, what is longer is cut
_BYTES = 24 * 2**20  # of sounds in a page: it has to be opened
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_THUMB, _SHEET = 96, 8192  # pixels a side, at most


@dataclass(frozen=True)
class Media:
    """What points look and sound like: `sounds` are URLs, "" where there is none; `sprite` is a sheet of thumbnails."""

    sounds: tuple[str, ...] = ()
    sprite: Mapping[str, Any] | None = None
    thumbs: Tensor | None = None


def media_of(cloud: Cloud, split: Split, data: DataSpec) -> Media:
    """Clips of sound of one channel, or thumbnails of images; nothing of other data. Sounds end where they would make
    the page too large to open."""
    if data.axes == ("time",) and data.rate is not None and data.channels == 1:
        return Media(sounds=tuple(_sounds(cloud, split, data.rate)))
    if len(data.grid) == 2 and data.rate is None and data.channels in (1, 3):
        thumbs = _thumbs(cloud, split)
        return Media(sprite=_sprite(thumbs), thumbs=thumbs)
    return Media()


def write_page(
    title: str, cloud: Cloud, planes: Sequence[Tensor], names: Sequence[str], numbers: Sequence[str], data: DataSpec,
    media: Media,
) -> str:  # fmt: skip
    """HTML with a plane ``(N, 2)`` for each depth: its name, and a line of `numbers` about it."""
    labels = {}
    for name, spec in data.labels.items():
        values = [point.labels.get(name, -1) for point in cloud.points]
        if max(values) >= 0:
            known = {value: named(spec, value) for value in set(values) if value >= 0}
            labels[name] = {"values": values, "names": known}
    content = {
        "label": cloud.label,
        "labels": labels,
        "palette": PALETTE,
        "points": [_told(cloud, place, data.rate) for place in range(len(cloud.points))],
        "depths": [
            {"name": name, "numbers": text, "points": [[round(float(v), 4) for v in point] for point in plane]}
            for name, text, plane in zip(names, numbers, planes, strict=True)
        ],
        "sounds": list(media.sounds) or None,
        "sprite": media.sprite,
    }
    # "</script>" in an id would end the element that holds the data
    plain = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    hear = " Click a point to hear it." if any(media.sounds) else ""
    template = resources.files(__package__).joinpath("scatter_page.html").read_text(encoding="utf-8")
    page = template.replace("__TITLE__", html.escape(title)).replace("__HEAR__", hear)
    return page.replace("__DATA__", plain)


def _told(cloud: Cloud, place: int, rate: int | None) -> str:
    point = cloud.points[place]
    if rate is None or cloud.unit == "item":
        return point.id
    return f"{point.id}, {point.start / rate:.2f} to {point.stop / rate:.2f} s"


def _read(split: Split, index: int) -> Item | None:
    try:
        return split[index, None]
    except CorruptItem:  # it has become so since the points were made
        return None


# --- sounds ----------------------------------------------------------------------------------------------------------


def _sounds(cloud: Cloud, split: Split, rate: int) -> list[str]:
    """A clip a point, in the order of the points; items are read one after the other."""
    urls, size = [""] * len(cloud.points), 0
    places: dict[int, list[int]] = {}
    for place, point in enumerate(cloud.points):
        places.setdefault(point.item, []).append(place)
    for index in items_of(cloud.points):
        item = _read(split, index)
        if item is None:
            continue
        for place in places[index]:
            point = cloud.points[place]
            urls[place] = _url(_clip(item.input[0], point.start, point.stop, rate), rate)
            size += len(urls[place])
        if size > _BYTES:
            break
    return urls


def _clip(samples: Tensor, start: int, stop: int, rate: int) -> Tensor:
    """From `start` to `stop`, with what is around it where it would be too short, faded in and out."""
    missing = max(0, math.ceil(_LEAST * rate) - (stop - start))
    start = max(0, start - missing // 2)
    stop = min(len(samples), max(stop, start + math.ceil(_LEAST * rate)), start + round(_MOST * rate))
    clip = samples[start:stop].clone()
    fade = min(len(clip) // 4, rate // 100)
    if fade:
        ramp = torch.linspace(0, 1, fade)
        clip[:fade] *= ramp
        clip[-fade:] *= ramp.flip(0)
    loudest = clip.abs().max() if len(clip) else torch.zeros(())
    return clip / loudest * 0.7 if loudest > 0 else clip


def _url(clip: Tensor, rate: int) -> str:
    """MP3, which every browser plays and which is a tenth as large, where its rates allow it; else WAV."""
    import soundfile

    file = io.BytesIO()
    mp3 = rate in _MP3_RATES
    kind = {"format": "MP3", "subtype": "MPEG_LAYER_III"} if mp3 else {"format": "WAV", "subtype": "PCM_16"}
    soundfile.write(file, clip.numpy(), rate, **kind)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:audio/{'mpeg' if mp3 else 'wav'};base64,{encoded}"


# --- images ----------------------------------------------------------------------------------------------------------


def _thumbs(cloud: Cloud, split: Split) -> Tensor:
    """The image of every point ``(N, C, H, W)``, made small; black where it cannot be read any more."""
    made: dict[int, Tensor] = {}
    for index in items_of(cloud.points):
        item = _read(split, index)
        if item is not None:
            made[index] = _small(item.input)
    shape = next(iter(made.values())).shape if made else (1, 1, 1)
    return torch.stack([made.get(point.item, torch.zeros(shape)) for point in cloud.points])


def _small(image: Tensor) -> Tensor:
    factor = math.ceil(max(image.shape[-2:]) / _THUMB)
    small = torch.nn.functional.avg_pool2d(image[None], factor)[0] if factor > 1 else image
    return small.clamp(0, 1)


def _sprite(thumbs: Tensor) -> dict[str, Any]:
    sheet, columns = sheet_of(thumbs, widest=_SHEET)
    url = f"data:image/png;base64,{base64.b64encode(sheet).decode('ascii')}"
    return {"url": url, "width": thumbs.shape[3], "height": thumbs.shape[2], "columns": columns}
