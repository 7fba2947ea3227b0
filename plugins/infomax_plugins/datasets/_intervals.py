"""What is said from when to when: Praat's TextGrids and TIMIT's .phn files, brought to the grid of aligned labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from infomax_cli.core.api import DataError, InfomaxError
from infomax_plugins.datasets._alignment import HOP, WINDOW, Alignment, Labels, label_count
from infomax_plugins.datasets._columns import Recording
from infomax_plugins.datasets._recordings import index_cache, natural_order, tell_left_out

Format = Literal["textgrid", "phn"]
Interval = tuple[float, float, str]  # from, to (exclusive): seconds in a TextGrid, samples in a .phn

SUFFIXES: Mapping[Format, tuple[str, ...]] = {"textgrid": (".TextGrid", ".textgrid"), "phn": (".phn", ".PHN")}
SLACK = 0.025  # seconds that intervals may go beyond the sound: rounding, or a window's length
_MOST_CLASSES = 32767  # Labels are 16 bits wide


@dataclass(frozen=True)
class _File:
    """The intervals of one recording by tier, in the unit of its format; `end` is where they say that it ends."""

    tiers: Mapping[str, Sequence[Interval]]
    end: float


def read_intervals(
    recordings: Sequence[Recording],
    files: Mapping[str, str],
    kind: Format,
    names: Mapping[str, str] | None,
    *,
    rate: int,
    max_corrupt: float,
    where: str,
) -> tuple[dict[str, Alignment], dict[str, str]]:
    """Aligned labels by name, and why the intervals of some recordings are left out.

    `files` are where the intervals lie, by the recording's id. `names` maps the tiers that are wanted to what their
    labels are called; None wants all, under their own names. An interval without text is unknown. Raises `DataError`
    where more than the share `max_corrupt` cannot be used, or a tier is in none of the files.
    """
    here = [recording for recording in recordings if recording.id in files]
    parsed = _parse_all([files[recording.id] for recording in here], kind)
    good: dict[str, tuple[Recording, Mapping[str, Sequence[Interval]]]] = {}
    left_out: dict[str, str] = {}
    for recording, found in zip(here, parsed, strict=True):
        problem = found if isinstance(found, str) else _too_long(recording, found, kind, files[recording.id], rate)
        if problem is not None:
            left_out[recording.id] = recording.blame(where, problem)
        elif not isinstance(found, str):
            good[recording.id] = (recording, found.tiers)
    tell_left_out(left_out, len(here), max_corrupt, "files of intervals cannot be used")
    there = list(dict.fromkeys(tier for _, tiers in good.values() for tier in tiers))
    wanted = {tier: tier for tier in there} if names is None else names
    if missing := [tier for tier in wanted if tier not in there]:
        raise DataError(
            f"none of the {len(good)} TextGrids has an interval tier {missing[0]}", f"There are {', '.join(there)}."
        )
    return {label: _align(good.values(), tier, kind, rate) for tier, label in wanted.items()}, left_out


def find_beside(recording: Recording, kind: Format, folder: str | None, top: str) -> str | None:
    """The file of a recording's intervals: beside it, or at its place (relative to `top`) in another `folder`."""
    stem = os.path.splitext(recording.path)[0]  # noqa: PTH122 - once for each of 100,000 files
    if folder is not None:
        stem = os.path.join(folder, os.path.relpath(stem, top))  # noqa: PTH118
    return next((stem + suffix for suffix in SUFFIXES[kind] if os.path.isfile(stem + suffix)), None)  # noqa: PTH113


def _too_long(recording: Recording, found: _File, kind: Format, path: str, rate: int) -> str | None:
    """Intervals that go on where the sound has ended belong to another sound."""
    seconds = recording.frames / rate
    end = found.end / (recording.rate if kind == "phn" else 1)
    if end <= seconds + SLACK:
        return None
    return f"{path} goes on to {end:.3f} s, and the sound ends at {seconds:.3f} s"


def _align(
    files: Iterable[tuple[Recording, Mapping[str, Sequence[Interval]]]], tier: str, kind: Format, rate: int
) -> Alignment:
    found = [(recording, tiers.get(tier, ())) for recording, tiers in files]
    texts = sorted({said for _, intervals in found for _, _, said in intervals if said}, key=natural_order)
    if len(texts) > _MOST_CLASSES:
        raise DataError(f"the tier {tier} has {len(texts):,} different texts, more than {_MOST_CLASSES:,}")
    classes = {said: place for place, said in enumerate(texts)}
    values = {
        recording.id: on_grid(intervals, classes, recording.frames, rate / recording.rate if kind == "phn" else rate)
        for recording, intervals in found
        if intervals
    }
    return Alignment(len(texts), tuple(texts), values)


def on_grid(intervals: Sequence[Interval], classes: Mapping[str, int], frames: int, per_unit: float) -> Labels:
    """The class at the centre of each label's window, ``(L,)``; -1 between intervals, and where nothing is said.

    `intervals` are in order; `per_unit` samples make one of their unit.
    """
    centres = np.arange(label_count(frames)) * HOP + WINDOW / 2
    starts, ends = (np.array([interval[side] for interval in intervals], dtype=float) * per_unit for side in (0, 1))
    said = np.array([classes.get(text, -1) for _, _, text in intervals], dtype=np.int16)
    place = np.searchsorted(starts, centres, side="right") - 1
    inside = (place >= 0) & (centres < ends[place])
    labels: Labels = np.where(inside, said[place], np.int16(-1))
    return labels


# --- reading files ---------------------------------------------------------------------------------------------------


def _parse_all(paths: Sequence[str], kind: Format) -> list[_File | str]:
    """Each file's intervals, or why there are none. Parsed once: kept under the files' paths, sizes and times."""
    if kind == "textgrid" and paths:
        _praatio()  # what it costs to be without it is told once, not for each file
    cache = index_cache(f"intervals-{kind}", paths)
    rows: list[Any] = cache.get(lambda: [_parse(path, kind) for path in paths])
    # what failed is tried again: the reason may have been the disk or the rights, which no stamp tells
    rows = [_parse(path, kind) if isinstance(row, str) else row for path, row in zip(paths, rows, strict=True)]
    return [row if isinstance(row, str) else _File(row[0], row[1]) for row in rows]


def _parse(path: str, kind: Format) -> str | tuple[dict[str, list[Interval]], float]:
    try:
        return _read_textgrid(path) if kind == "textgrid" else _read_phn(Path(path))
    except DataError as error:
        return error.message


def _read_textgrid(path: str) -> tuple[dict[str, list[Interval]], float]:
    """The interval tiers, and the end of the TextGrid, in seconds."""
    textgrid = _praatio()
    try:
        grid = textgrid.openTextgrid(path, includeEmptyIntervals=False, reportingMode="silence")
        tiers = {tier.name: tier.entries for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)}
        read = {name: [(float(a), float(b), said.strip()) for a, b, said in entries] for name, entries in tiers.items()}
        return read, float(grid.maxTimestamp)
    except Exception as error:  # praatio raises whatever its parsing stumbles over
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} does not parse as a TextGrid: {reason}") from error


def _praatio() -> Any:
    try:
        from praatio import textgrid
    except ImportError as error:
        raise InfomaxError("TextGrids are read by praatio, which is not there", "pip install praatio") from error
    return textgrid


def _read_phn(path: Path) -> tuple[dict[str, list[Interval]], float]:
    """``<first sample> <sample after the last> <phone>`` a line (TIMIT, Garofolo et al. 1993)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    intervals: list[Interval] = []
    last = 0
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=2)
        if not fields:
            continue
        if len(fields) < 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise DataError(f"{path}, line {number}: expected a first sample, the one after the last and a phone")
        start, end = int(fields[0]), int(fields[1])
        if end <= start or start < last:
            raise DataError(f"{path}, line {number}: from {start} to {end} is empty, or before what stands above it")
        last = end
        intervals.append((start, end, fields[2].strip()))
    if not intervals:
        raise DataError(f"{path} is empty")
    return {"phn": intervals}, last
