"""Who is told how far something is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Watch(Protocol):
    """Tasks are known by what they are called; several may be under way at once, in several threads."""

    def begin(self, task: str, total: int | None, done: int = 0) -> None:
        """Something of `total` bytes begins, or begins again; None where nobody says how many."""
        ...

    def at(self, task: str, done: int) -> None:
        """So many bytes are done."""
        ...

    def end(self, task: str, *, whole: bool) -> None:
        """It is over, and came to its end or did not."""
        ...

    def note(self, text: str) -> None:
        """A line worth reading."""
        ...


class Silence:
    """Nobody is told."""

    def begin(self, task: str, total: int | None, done: int = 0) -> None: ...

    def at(self, task: str, done: int) -> None: ...

    def end(self, task: str, *, whole: bool) -> None: ...

    def note(self, text: str) -> None: ...


@contextlib.contextmanager
def counting(watch: Watch, task: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A task of which one only knows how many bytes each of its steps did."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        watch.at(task, done)

    watch.begin(task, total)
    try:
        yield advance
    except BaseException:
        watch.end(task, whole=False)
        raise
    watch.end(task, whole=True)
