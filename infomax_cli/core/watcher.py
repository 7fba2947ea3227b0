"""Who is told how far long work has come."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """`stage` begins something of `total` parts, `advance` says that another is done."""

    def stage(self, what: str, total: int) -> None: ...

    def advance(self) -> None: ...


class Nobody:
    """A watcher who does not care."""

    def stage(self, what: str, total: int) -> None: ...

    def advance(self) -> None: ...
