"""Files of audio: found, measured by their headers alone, and dealt out to splits."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from infomax_cli.core.api import (
    ArrayCache,
    DataError,
    Found,
    IndexCache,
    audio_info,
    find_files,
    order_by_seed,
    paths_of,
)
from infomax_plugins.datasets._columns import Ints, Recording

MISSING_HINT = (  # the end of every hint about data that is not there
    "Say where the data is with --root, data.root= or INFOMAX_DATA; `--data syllables` needs none and runs right now."
)
_SHOWN = 5  # files named in one message
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class Measured:
    """Recordings whose headers have been read; why the others are left out, by what they are called; their paths."""

    good: list[Recording]
    left_out: Mapping[str, str]
    unread: Sequence[str]


def walk(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Paths of all files below `folder` with one of these suffixes (lower case), sorted, relative to it; those that are
    passed over are told of. See `find_files`."""
    found = find_files(folder, suffixes)
    tell_passed_over(found, folder)
    return paths_of(found.looked_at)


def tell_passed_over(found: Found, folder: Path) -> None:
    if paths := paths_of(found.passed_over):
        _log.warning(
            "left out of %s are %d that are hidden, or lie in hidden or a system's own folders: %s",
            folder, len(paths), listed(paths),
        )  # fmt: skip


def measure(recordings: Sequence[Recording], rate: int, where: str) -> Measured:
    """The recordings with their lengths, from the files' headers; those that have none are left out.

    Headers are read once: they are cached with the sizes and times of the files. `where` they are is for messages.
    """
    headers, problems = _headers([recording.path for recording in recordings])
    headers[:, 2] = -(-headers[:, 2] * rate // np.maximum(headers[:, 3], 1))
    good: list[Recording] = []
    unread: list[Recording] = []
    for place, (recording, header) in enumerate(zip(recordings, headers.tolist(), strict=True)):
        if place in problems:
            unread.append(recording)
        else:
            name, path, tags, line, _, _, aligned, _, _ = recording
            size, time, frames, own = header
            good.append(Recording(name, path, tags, line, frames, own, aligned, size, time))
    left_out = {
        recording.id: recording.blame(where, problem)
        for recording, problem in zip(unread, problems.values(), strict=True)
    }
    return Measured(good, left_out, [recording.path for recording in unread])


def tell_unusable(measured: Measured, max_corrupt: float, where: str) -> None:
    """See `tell_left_out`."""
    count = len(measured.good) + len(measured.left_out)
    tell_left_out(measured.left_out, count, max_corrupt, unusable(where))


def unusable(where: str) -> str:
    """What is left out, for a message."""
    return f"recordings in {where} cannot be used"


def tell_left_out(left_out: Mapping[str, str], count: int, max_corrupt: float, what: str) -> None:
    """Name what cannot be used of `count`; raises `DataError` where it is too much (`allowed`)."""
    refuse_left_out(left_out, count, max_corrupt, what)
    if left_out:
        _log.warning("%s and are left out: %s", *_counted(left_out, count, what))


def refuse_left_out(left_out: Mapping[str, str], count: int, max_corrupt: float, what: str) -> None:
    """Raises `DataError` where more than the share `max_corrupt` cannot be used."""
    if len(left_out) > allowed(max_corrupt, count):
        raise DataError(": ".join(_counted(left_out, count, what)), corrupt_hint(max_corrupt))


def _counted(left_out: Mapping[str, str], count: int, what: str) -> tuple[str, str]:
    return f"{len(left_out)} of {count} {what}", listed(list(left_out.values()))


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


def _headers(paths: Sequence[str]) -> tuple[Ints, dict[int, str]]:
    """``(N, 4)``: size, time, frames and rate of each file; and why some have no header, by place."""
    cache = ArrayCache("headers", ["3", hash_of(paths)])
    known, stamps = cache.read(), stamps_of(paths)
    before = np.full((len(paths), 4), -2) if known is None else known["rows"]
    # what failed is tried again: the reason may have been the disk or the rights, which no stamp tells
    to_read = np.flatnonzero((before[:, :2] != stamps).any(axis=1) | (before[:, 2] < 0)).tolist()
    if len(to_read) > 1000:
        _log.info("reading the headers of %d files", len(to_read))
    rows, problems = np.concatenate([stamps, before[:, 2:]], axis=1), dict[int, str]()
    for place in to_read:
        try:
            info = audio_info(paths[place])
            rows[place, 2:] = info.frames, info.rate
        except DataError as error:
            rows[place, 2:] = -1
            problems[place] = error.message
    if len(to_read) > len(problems) or known is None:
        cache.write({"rows": rows})
    return rows, problems


def index_cache(kind: str, paths: Sequence[str]) -> IndexCache:
    """For what is read out of these files: valid while their paths, sizes and times stay the same."""
    return IndexCache(kind, ["3", hash_of(paths), blake2b(stamps_of(paths).tobytes()).hexdigest()])


def hash_of(paths: Sequence[str]) -> str:
    return blake2b("\0".join(paths).encode(errors="surrogateescape")).hexdigest()


def stamps_of(paths: Sequence[str]) -> Ints:
    """``(N, 2)``: what changes when a file does: its size and its time, in nanoseconds; -1 where there is none."""
    sizes, times = [], []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - once for each of 100,000 files
            sizes.append(status.st_size)
            times.append(status.st_mtime_ns)
        except (OSError, ValueError):
            sizes.append(-1)
            times.append(-1)
    return np.array([sizes, times], dtype=np.int64).T


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
