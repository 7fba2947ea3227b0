"""How a task of several stages looks on the screen."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS = 10.0


class StageDisplay:
    """What is being done and how far, each stage of so many parts: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        moving = console.is_terminal and not console.is_dumb_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not moving)
        self._task = self._progress.add_task("", total=None)
        self._what, self._total, self._done = "", 0, 0
        self._last_line = time.monotonic()

    def __enter__(self) -> StageDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, what: str, total: int) -> None:
        """Begin something of `total` parts."""
        self._what, self._total, self._done = what, total, 0
        self._progress.reset(self._task, description=escape(what), total=total)

    def advance(self) -> None:
        """Another part is done."""
        self._done += 1
        self._progress.advance(self._task)
        now = time.monotonic()
        if self._progress.disable and now - self._last_line > PLAIN_EVERY_SECONDS:
            self._last_line = now
            line = f"{self._what}: {self._done}/{self._total}"
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)
