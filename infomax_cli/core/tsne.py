"""A run's features in the plane, depth by depth, and how far the classes of a label are apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infomax_cli.core import plane
from infomax_cli.core.api import DataSpec, Encoder, Split
from infomax_cli.core.cloud import Cloud, gather, named, unit_of
from infomax_cli.core.features import FrozenEncoder
from infomax_cli.core.files import write_text
from infomax_cli.core.pictures import spectrogram_image
from infomax_cli.core.plane import Method
from infomax_cli.core.projector import write_projector
from infomax_cli.core.scatter import draw_planes, write_picture
from infomax_cli.core.scatter_page import Media, media_of, write_page
from infomax_cli.core.subject import Subject, untrained
from infomax_cli.core.watcher import Watcher
from infomax_cli.errors import CheckpointError, UsageError
from infomax_cli.recipe import SamplingOptions
from infomax_cli.runs import Run
from infomax_cli.wording import suggest

_UNITS = {"item": "items", "segment": "segments", "frame": "frames"}
_THUMB = 48  # pixels, of a spectrogram in TensorBoard's projector


@dataclass(frozen=True, kw_only=True)
class TsneOptions:
    """`color` is a label, None for the only one; a point is a frame with `frames`, else a segment or an item (see
    `cloud`). Up to `limit` points are drawn from a `fraction` of the items of `split`; None means that on which probes
    of the label are tested."""

    color: str | None = None
    method: Method = "tsne"
    frames: bool = False
    split: str | None = None
    limit: int = 2000
    fraction: float = 1.0
    perplexity: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 3:
            raise UsageError(f"--limit {self.limit}: at least 3 points are needed")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"--fraction {self.fraction}: a share above 0, up to 1")
        if not self.perplexity > 0:
            raise UsageError(f"--perplexity {self.perplexity}: must be above 0")


@dataclass(frozen=True)
class Apart:
    """How far classes are apart at a depth: the silhouette of the standardised features and of the plane, the share of
    a point's ten nearest features that are of its class, and the same of an encoder of fresh weights."""

    depth: int
    dims: int
    silhouette: float
    purity: float
    plane_silhouette: float
    untrained_silhouette: float | None = None
    untrained_purity: float | None = None


@dataclass(frozen=True)
class Seen:
    """What came of it: the points, a plane ``(N, 2)`` for each depth, and its numbers."""

    cloud: Cloud
    options: TsneOptions
    planes: tuple[Tensor, ...]
    apart: tuple[Apart, ...]

    @property
    def stem(self) -> str:
        """The name of its files."""
        what = f"{self.options.method}-{self.cloud.label}{'-frames' if self.options.frames else ''}"
        return f"{what}-depth{self.cloud.depths[0]}" if len(self.cloud.depths) == 1 else what

    @property
    def perplexity(self) -> float | None:
        """What t-SNE took; None of another method."""
        if self.options.method != "tsne":
            return None
        return plane.perplexity_of(len(self.cloud.points), self.options.perplexity)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the features."""
        shown = sorted(set(self.cloud.classes.tolist()))
        return {
            **asdict(self.options),
            "perplexity": self.perplexity,
            "perplexity_asked": self.options.perplexity,
            "unit": self.cloud.unit,
            "points": len(self.cloud.points),
            "classes": [named(self.cloud.spec, value) for value in shown],
            "depths": [asdict(apart) for apart in self.apart],
        }


def look(subject: Subject, depths: Sequence[int], options: TsneOptions, watcher: Watcher, *, baseline: bool) -> Seen:
    """Bring every one of `depths` to the plane; with `baseline` measure an encoder of fresh weights beside it."""
    data = subject.data
    label = chosen_label(data, options.color)
    options = replace(options, color=label, split=options.split or _test_split(subject, label))
    split = _split(subject, options)
    cloud = _gather(
        subject.encoder, subject.recipe.sampling, subject.device, depths, split, data, label, options, watcher
    )
    beside: list[Tensor] = []
    if baseline:
        fresh = untrained(subject, options.seed)
        beside += _gather(
            fresh, subject.recipe.sampling, subject.device, depths, split, data, label, options, watcher
        ).features
    watcher.stage(f"{options.method}", len(depths))
    planes, apart = [], []
    for place, depth in enumerate(depths):
        features = cloud.features[place]
        planes.append(plane.project(features, options.method, perplexity=options.perplexity, seed=options.seed))
        apart.append(_measured(cloud, depth, features, planes[-1], beside[place] if beside else None))
        watcher.advance()
    return Seen(cloud, options, tuple(planes), tuple(apart))


def _gather(
    encoder: Encoder, sampling: SamplingOptions, device: torch.device, depths: Sequence[int], split: Split,
    data: DataSpec, label: str, options: TsneOptions, watcher: Watcher,
) -> Cloud:  # fmt: skip
    return gather(
        FrozenEncoder(encoder, sampling, device, depths), depths, split, data, label,
        unit=unit_of(data, label, frames=options.frames), limit=options.limit, fraction=options.fraction,
        seed=options.seed, watcher=watcher,
    )  # fmt: skip


def chosen_label(data: DataSpec, label: str | None, option: str = "--color") -> str:
    """The label that is asked for by `option`, or the only one that there is."""
    known = list(data.labels)
    if label is not None and label not in known:
        raise UsageError(f"{option} {label}: the data has no such label", suggest(label, known))
    if label is None and len(known) != 1:
        raise UsageError("which label gives the colours?", f"{option} takes one of: {', '.join(known) or 'none'}")
    return label or known[0]


def _test_split(subject: Subject, label: str) -> str:
    """Where the speakers, say, of the test split are others than those of training, there is a split of its own."""
    own: Mapping[str, tuple[str, str]] = getattr(subject.dataset, "probe_splits", {})
    return own.get(label, ("train", "test"))[1]


def _split(subject: Subject, options: TsneOptions) -> Split:
    name = options.split or "test"
    if not subject.data.sizes.get(name):
        known = [split for split, size in subject.data.sizes.items() if size]
        raise UsageError(f"--split {name}: the data has no such split", suggest(name, known))
    return subject.split(name)


def _measured(cloud: Cloud, depth: int, features: Tensor, points: Tensor, beside: Tensor | None) -> Apart:
    classes, x = cloud.classes, plane.standardised(features)
    fresh = None if beside is None else plane.standardised(beside)
    return Apart(
        depth=depth,
        dims=features.shape[1],
        silhouette=plane.silhouette(x, classes),
        purity=plane.purity(x, classes),
        plane_silhouette=plane.silhouette(points, classes),
        untrained_silhouette=None if fresh is None else plane.silhouette(fresh, classes),
        untrained_purity=None if fresh is None else plane.purity(fresh, classes),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def heading(run: Run, seen: Seen) -> str:
    """What a picture shows, in a line."""
    return f"{run.name}: {len(seen.cloud.points):,} {_UNITS[seen.cloud.unit]}, {seen.options.method}"


def write_seen(run: Run, subject: Subject, seen: Seen) -> list[Path]:
    """``<run>/tsne/<stem>.png``, ``.html``, ``.json``, and TensorBoard's projector. Raises `CheckpointError` where they
    cannot be written."""
    stem = run.path / "tsne" / seen.stem
    picture, page, numbers = (stem.with_name(f"{stem.name}{ending}") for ending in (".png", ".html", ".json"))
    names = [f"depth {depth}" for depth in seen.cloud.depths]
    lines = [_line(apart) for apart in seen.apart]
    media = media_of(seen.cloud, _split(subject, seen.options), subject.data)
    try:
        write_text(numbers, json.dumps({"run": run.name, **seen.to_dict()}, indent=2, ensure_ascii=False) + "\n")
        titles = [f"{name}, silhouette {apart.silhouette:.2f}" for name, apart in zip(names, seen.apart, strict=True)]
        write_picture(draw_planes(seen.cloud, seen.planes, titles, heading(run, seen)), picture)
        write_text(page, write_page(heading(run, seen), seen.cloud, seen.planes, names, lines, subject.data, media))
        _project_in_tensorboard(run, subject, seen, media)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {stem.parent}: {error.strerror or error}", "make room there, or make it writable"
        ) from error
    return [picture, page, numbers]


def _line(apart: Apart) -> str:
    fresh = "" if apart.untrained_silhouette is None else f" (untrained {apart.untrained_silhouette:.2f})"
    return f"silhouette {apart.silhouette:.2f}{fresh}, 10-NN purity {100 * apart.purity:.0f} %, {apart.dims} dimensions"


def _project_in_tensorboard(run: Run, subject: Subject, seen: Seen, media: Media) -> None:
    """Features with their labels and thumbnails, a tab a depth."""
    cloud = seen.cloud
    labels = [name for name in subject.data.labels if any(point.labels[name] >= 0 for point in cloud.points)]
    rows = [[point.id, *(named(subject.data.labels[n], point.labels[n]) for n in labels)] for point in cloud.points]
    thumbs = media.thumbs if media.thumbs is not None else _spectrograms(cloud, subject, seen.options)
    for depth, features in zip(cloud.depths, cloud.features, strict=True):
        write_projector(
            run,
            f"{cloud.label}{'-frames' if seen.options.frames else ''}-depth{depth}",
            features,
            ["id", *labels],
            rows,
            thumbs,
        )


def _spectrograms(cloud: Cloud, subject: Subject, options: TsneOptions) -> Tensor | None:
    """A small one of every point ``(N, 1, H, W)``; None where the data is no sound."""
    if subject.data.axes != ("time",) or subject.data.channels != 1 or subject.data.rate is None:
        return None
    split = _split(subject, options)
    made: list[Tensor] = []
    index, wave = -1, torch.zeros(0)
    for point in cloud.points:
        if point.item != index:
            index, wave = point.item, split[point.item, None].input[0]
        least = max(0, (subject.data.rate // 5 - (point.stop - point.start)) // 2)  # a fifth of a second at least
        piece = wave[max(0, point.start - least) : point.stop + least]
        if len(piece) < 2:
            made.append(torch.zeros(1, _THUMB, _THUMB))
            continue
        image = spectrogram_image(piece, hop=max(1, len(piece) // (2 * _THUMB)))
        made.append(torch.nn.functional.interpolate(image[None], (_THUMB, _THUMB), mode="area")[0])
    return torch.stack(made)
