"""Small helpers for messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(word: str, known: Sequence[str], prefix: str = "") -> str | None:
    """A hint that names the closest of the known words, or all of them; None where there are none."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"there are: {', '.join(known)}" if known else None


def count_of(number: int, noun: str) -> str:
    """A number of things: ``1 channel``, ``3 channels``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_error(error: BaseException) -> str:
    """An exception on one line: its type and the first line of what it says."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a stranger's exception may not even have words
        lines = []
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def describe_input(channels: int, grid: Sequence[object], rate: int | None) -> str:
    """A batch that an encoder takes, as a comment in code tells it: ``(B, 1, T) at 16000 Hz, in [-1, 1]``,
    ``(B, 3, 32, 32), in [0, 1]``. `rate` is None of images."""
    shape = ", ".join(map(str, ("B", channels, *grid)))
    return f"({shape}), in [0, 1]" if rate is None else f"({shape}) at {rate} Hz, in [-1, 1]"


def describe_bytes(count: float) -> str:
    """A number of bytes for people, in binary units: ``3.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def describe_seconds(seconds: float) -> str:
    """A span of time as a clock shows it: ``3:07``, ``1:00:00``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
