"""Files of audio: found, measured by their headers alone, and dealt out to splits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infomax_cli.core.api import DataError, IndexCache, audio_info, order_by_seed

MISSING_HINT = (  # the end of every hint about data that is not there
    "Say where the data is with --root, data.root= or INFOMAX_DATA; `--data syllables` needs none and runs right now."
)
_NO_TAGS: Mapping[str, str] = {}
_SHOWN = 5  # files named in one message
_log = logging.getLogger("infomax")


class Recording(NamedTuple):
    """A file that was found, and what it is known by: `tags` are its whole-item labels, as text. A tuple, for there may
    be 100,000."""

    id: str
    path: str
    tags: Mapping[str, str] = _NO_TAGS
    line: int = 0  # of the manifest; 0 where none lists it
    frames: int = 0  # at the dataset's rate; 0 until its header has been read
    rate: int = 0  # the file's own

    def blame(self, where: str, problem: str) -> str:
        """A problem of this file, for a message: with its line in the manifest `where`."""
        return f"{where}, line {self.line}: {problem}" if self.line else problem


@dataclass(frozen=True)
class Measured:
    """Recordings whose headers have been read, and why the others are left out, by what they are called."""

    good: list[Recording]
    left_out: Mapping[str, str]


def walk(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Paths of all files below `folder` with one of these suffixes (lower case), sorted, relative to it.

    Links are followed, hidden files and folders are not looked at (macOS leaves a "._name.flac" beside a file).
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(where)  # noqa: PTH116 - beside os.walk
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = os.path.relpath(where, folder)
        for name in files:
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):  # noqa: PTH122 - 28,539 files
                found.append(name if inner == "." else f"{inner}/{name}")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def measure(recordings: Sequence[Recording], rate: int, max_corrupt: float, where: str) -> Measured:
    """The recordings with their lengths, from the files' headers; those that have none are named and left out.

    Headers are read once: they are cached under the paths, sizes and times of the files. Raises `DataError` when more
    than the share `max_corrupt` is corrupt (`allowed`).
    """
    good: list[Recording] = []
    left_out: dict[str, str] = {}
    headers = _headers([recording.path for recording in recordings])
    for recording, header in zip(recordings, headers, strict=True):
        name, path, tags, line, *_ = recording
        if isinstance(header, str):
            left_out[name] = recording.blame(where, header)
        else:
            frames, own, _ = header
            good.append(Recording(name, path, tags, line, -(-frames * rate // own), own))
    tell_left_out(left_out, len(recordings), max_corrupt, f"recordings in {where} cannot be used")
    return Measured(good, left_out)


def tell_left_out(left_out: Mapping[str, str], count: int, max_corrupt: float, what: str) -> None:
    """Name what cannot be used of `count`; raises `DataError` where it is too much (`allowed`)."""
    if not left_out:
        return
    named, number = listed(list(left_out.values())), f"{len(left_out)} of {count} {what}"
    if len(left_out) > allowed(max_corrupt, count):
        raise DataError(f"{number}: {named}", corrupt_hint(max_corrupt))
    _log.warning("%s and are left out: %s", number, named)


def listed(what: Sequence[str]) -> str:
    """The first few, for a message."""
    return "; ".join(what[:_SHOWN]) + ("; ..." if len(what) > _SHOWN else "")


def allowed(share: float, count: int) -> int:
    """How many of `count` files may be corrupt: the share, but at least one unless the share is 0."""
    return max(1, int(share * count)) if share > 0 else 0


def corrupt_hint(share: float) -> str:
    return (
        f"Copy or download the data again, or allow more than a share of {share:g} to be corrupt: data.max_corrupt=0.9 "
        "(with it `infomax data NAME --check` names all that is wrong)."
    )


def _headers(paths: Sequence[str]) -> list[list[int] | str]:
    """(frames, rate, channels) of each file, or why it has none."""
    if len(paths) > 1000:
        _log.info("reading the headers of %d files, unless this has been done before", len(paths))
    rows: list[list[int] | str] = index_cache("headers", paths).get(lambda: [_header(path) for path in paths])
    # What failed is tried again: the reason may have been the disk or the rights, which no stamp tells.
    return [_header(path) if isinstance(row, str) else row for path, row in zip(paths, rows, strict=True)]


def index_cache(kind: str, paths: Sequence[str]) -> IndexCache:
    """For what is read out of these files: valid while their paths, sizes and times stay the same."""
    known = blake2b("\0".join(paths).encode(errors="surrogateescape"))
    known.update(np.array([stamp(path) for path in paths], dtype=np.int64).tobytes())
    return IndexCache(kind, ["2", known.hexdigest()])


def stamp(path: str) -> tuple[int, int]:
    """What changes when a file does: its size and its time."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once for each of 28,539 files
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def _header(path: str) -> list[int] | str:
    try:
        info = audio_info(Path(path))
    except DataError as error:
        return error.message
    return [info.frames, info.rate, info.channels]


def draw(names: Iterable[str], fraction: float, *seed: int | str) -> set[str]:
    """A seeded choice of this fraction of `names`: none of one, at least one of two or more, never all.

    Names are ranked by a hash of seed and name, so that a name more or less hardly changes the others' fate.
    """
    ranked = order_by_seed(names, *seed)
    if fraction <= 0 or len(ranked) < 2:
        return set()
    return set(ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)])


def hold_out(
    recordings: Sequence[Recording], fraction: float, *seed: int | str, by: str | None = None
) -> tuple[list[Recording], list[Recording]]:
    """(kept, held out): `draw` from all, or from those of each value of the tag `by` (each speaker is in both)."""
    groups: dict[str, list[str]] = {}
    for recording in recordings:
        groups.setdefault(recording.tags.get(by, "") if by else "", []).append(recording.id)
    held = {name for group in groups.values() for name in draw(group, fraction, *seed)}
    return [r for r in recordings if r.id not in held], [r for r in recordings if r.id in held]


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sorts numbers within text by their value: 19 before 103."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
