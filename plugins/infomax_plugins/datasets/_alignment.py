"""Labels aligned to audio, one every 10 ms, in the format of van den Oord et al. 2018."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._columns import Recording
from infomax_plugins.datasets._recordings import MISSING_HINT, listed

# Label i sees samples [160 i, 160 i + 400): Kaldi's 25 ms windows every 10 ms, edges snipped.
HOP, WINDOW = 160, 400

Labels = npt.NDArray[np.int16]
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class Alignment:
    """An aligned label, one class every `HOP` samples: `values` by recording id."""

    classes: int
    names: tuple[str, ...]
    values: Mapping[str, Labels]


def label_count(samples: int) -> int:
    """How many aligned labels lie wholly within so many samples."""
    return max(0, 1 + (samples - WINDOW) // HOP)


def read_alignment(path: Path) -> Alignment:
    """Read ``<id> <class> <class> ...`` a line (van den Oord et al. 2018), and ``phones.txt`` beside it for the names.

    Raises `DataError` naming the line.
    """
    values: dict[str, Labels] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                name, _, classes = line.strip().partition(b" ")
                if name:
                    values[os.fsdecode(name)] = _parse_classes(classes, f"{path}, line {number}")
    except OSError as error:
        raise DataError(f"cannot read the phone labels {path}: {error.strerror}", MISSING_HINT) from error
    names = _read_names(path.with_name("phones.txt"))
    highest = max((int(v.max(initial=-1)) for v in values.values()), default=-1)
    highest = max(highest, *names, -1)
    if highest < 0:
        raise DataError(f"{path} holds no labels", "A line is an utterance's id and one class number for every 10 ms.")
    listed = tuple(names.get(label, str(label)) for label in range(highest + 1)) if names else ()
    return Alignment(highest + 1, listed, values)


def _parse_classes(text: bytes, where: str) -> Labels:
    try:
        # one text per line of spaces and numbers: four times as fast as split()
        values = np.fromstring(text, dtype=np.int16, sep=" ")
        if len(values) != text.count(b" ") + 1:  # more than one space, or something that is no number
            values = np.array(text.split(), dtype=np.int16)
        lowest = values.min()
    except (ValueError, OverflowError, DeprecationWarning) as error:
        raise DataError(f"{where}: expected an id and class numbers, one for every 10 ms") from error
    if lowest < -1:
        raise DataError(f"{where}: {lowest} is no class; -1 is unknown, classes start at 0")
    return values


def _read_names(path: Path) -> dict[int, str]:
    """``<class> <name>`` a line; nothing where there is no such file."""
    if not path.is_file():
        return {}
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        label, _, name = line.strip().partition(" ")
        if not label:
            continue
        if not label.isdecimal() or not name:
            raise DataError(f"{path}, line {number}: expected a class number and its name, not {line.strip()!r}")
        names[int(label)] = name.strip()
    return names


def fit_alignment(alignment: Alignment, recordings: Iterable[Recording], *, slack: int, where: Path) -> Alignment:
    """Only the labels of these recordings; those that differ from the audio by more than `slack` labels are dropped."""
    values: dict[str, Labels] = {}
    odd: list[str] = []
    for recording in recordings:
        found = alignment.values.get(recording.id)
        if found is None:
            continue
        if abs(len(found) - label_count(recording.frames)) > slack:
            odd.append(f"{recording.id} has {len(found)} for {label_count(recording.frames)} frames")
        else:
            values[recording.id] = found
    if odd:
        _log.warning(
            "%s: labels of %d recordings do not fit their audio and are left out: %s", where, len(odd), listed(odd)
        )
    return replace(alignment, values=values)


def cut(values: Labels | None, frames: int, start: int, size: int) -> Tensor:
    """The labels of the `size` samples from `start`, ``(L,)``; -1 beyond those of the recording's `frames` samples."""
    labels = torch.full((label_count(size),), -1, dtype=torch.long)
    if values is not None:
        known = values[: label_count(frames)][start // HOP :][: len(labels)]
        labels[: len(known)] = torch.from_numpy(known.astype(np.int64))
    return labels
