"""How a task of several stages looks on the screen."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from infomax_cli.wording import describe_bytes, describe_seconds

PLAIN_EVERY_SECONDS = 10.0


class _Bars:
    """Bars on a terminal, which go away at the end; elsewhere plain lines."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        self.moving = console.is_terminal and not console.is_dumb_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=not self.moving)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


class StageDisplay(_Bars):
    """What is being done and how far, each stage of so many parts: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console, TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
        self._task = self._progress.add_task("", total=None)
        self._what, self._total, self._done = "", 0, 0
        self._last_line = time.monotonic()

    def stage(self, what: str, total: int) -> None:
        """Begin something of `total` parts."""
        self._what, self._total, self._done = what, total, 0
        self._progress.reset(self._task, description=escape(what), total=total)

    def advance(self) -> None:
        """Another part is done."""
        self._done += 1
        self._progress.advance(self._task)
        now = time.monotonic()
        if not self.moving and now - self._last_line > PLAIN_EVERY_SECONDS:
            self._last_line = now
            self._say(f"{self._what}: {self._done}/{self._total}")


@dataclass
class _Transfer:
    """Something of many bytes under way: its bar, where it began, and when."""

    bar: TaskID
    total: int | None
    first: int
    began: float
    done: int
    said: float


class TransferDisplay(_Bars):
    """A `Watch`: a bar for each file on a terminal, else a line each now and then and at its end."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console, TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
            TransferSpeedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self._under_way: dict[str, _Transfer] = {}
        self._lock = threading.Lock()

    def begin(self, task: str, total: int | None, done: int = 0) -> None:
        now = time.monotonic()
        with self._lock:
            old = self._under_way.get(task)
            if old is not None and done >= old.done and total == old.total:
                return  # it goes on from where it was
            bar = old.bar if old else self._progress.add_task(escape(task), total=total)
            self._progress.update(bar, total=total, completed=done)
            self._under_way[task] = _Transfer(bar, total, done, now, done, old.said if old else now)

    def at(self, task: str, done: int) -> None:
        now = time.monotonic()
        with self._lock:
            transfer = self._under_way[task]
            transfer.done = done
            self._progress.update(transfer.bar, completed=done)
            if not self.moving and now - transfer.said > PLAIN_EVERY_SECONDS:
                transfer.said = now
                self._say(f"{task}: {_so_far(transfer, now)}")

    def end(self, task: str, *, whole: bool) -> None:
        with self._lock:
            transfer = self._under_way.pop(task, None)
            if transfer is None:
                return
            self._progress.remove_task(transfer.bar)
            if whole:
                seconds = time.monotonic() - transfer.began
                self._say(f"{task}: {describe_bytes(transfer.done)} in {describe_seconds(seconds)}")

    def note(self, text: str) -> None:
        self._say(text)


def _so_far(transfer: _Transfer, now: float) -> str:
    """How much, how fast, and how long still."""
    speed = (transfer.done - transfer.first) / max(now - transfer.began, 1e-9)
    if transfer.total is None:
        return f"{describe_bytes(transfer.done)}, {describe_bytes(speed)}/s"
    left = describe_seconds((transfer.total - transfer.done) / speed) if speed > 0 else "?"
    much = f"{describe_bytes(transfer.done)} of {describe_bytes(transfer.total)}"
    return f"{much}, {describe_bytes(speed)}/s, {left} left"
