"""Titles that fit the picture they stand in."""

from __future__ import annotations

import textwrap

_WIDTH = 0.55  # of a letter, in those of its height; the mean of matplotlib's own font


def wrapped(text: str, inches: float, points: float) -> str:
    """`text` broken between words, never within a name, into lines of letters so large that fit a width."""
    letters = max(16, int(72 * inches / (_WIDTH * points)))
    lines = (textwrap.wrap(line, letters, break_on_hyphens=False) or [""] for line in text.split("\n"))
    return "\n".join(part for broken in lines for part in broken)
