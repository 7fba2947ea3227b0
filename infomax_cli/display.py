"""How a long run looks on the screen: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from infomax_cli.wording import describe_seconds

PLAIN_EVERY_SECONDS = 10.0


class TrainDisplay:
    """Loss per block, speed and time left. `start` is the step a resumed run begins at, `batch` the items of a step."""

    def __init__(self, console: Console, *, start: int, total: int, batch: int) -> None:
        self.console = console
        self.total, self.batch = total, batch
        self.start, self.began = start, time.monotonic()
        self.step = start
        self.values: dict[str, float] = {}
        self._last_line = 0.0
        self._preparation: TaskID | None = None
        self._progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("train", total=total, completed=start, speed="")
        moving = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render) if moving else None

    def __enter__(self) -> TrainDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def preparing(self, what: str, done: int, total: int) -> None:
        """Before the first step: a bar of its own on a terminal, else a line now and then."""
        self.began = time.monotonic()  # the speed is that of the steps
        if self._live is not None:
            if self._preparation is None:
                self._preparation = self._progress.add_task("", total=total, speed="")
            self._progress.update(self._preparation, completed=done, speed=what, visible=done < total)
        elif self.began - self._last_line > PLAIN_EVERY_SECONDS or done == total:
            self._last_line = self.began
            self.console.print(f"{what}: {done:,}/{total:,}", soft_wrap=True, highlight=False, markup=False)

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def progress(self, step: int) -> None:
        self.step = step
        self._progress.update(self._task, completed=step, speed=self._speed())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.values = {**self.values, **values}  # anew: the thread that draws may be reading the old one
        now = time.monotonic()
        if self._live is None and (now - self._last_line > PLAIN_EVERY_SECONDS or step == self.total):
            self._last_line = now
            self.console.print(self._line(step, values), soft_wrap=True, highlight=False, markup=False)

    def _speed(self) -> str:
        seconds = time.monotonic() - self.began
        return f"{(self.step - self.start) * self.batch / max(seconds, 1e-9):.1f} items/s"

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        names = [name for name in values if name.count("/") == 2] or list(values)  # a loss of several terms has others
        losses = [f"{_short(name)} {values[name]:.4f}" for name in names]
        seconds = time.monotonic() - self.began
        left = (self.total - step) * seconds / max(1, step - self.start)
        phase = next(iter(values), "train/").split("/")[0]
        return f"step {step}/{self.total}  {phase}  {'  '.join(losses)}  {self._speed()}  {describe_seconds(left)} left"

    def _render(self) -> Group:
        values = self.values
        table = Table(box=None, pad_edge=False)
        blocks = sorted({name.split("/")[1] for name in values}, key=lambda b: int(b.removeprefix("block")))
        measures = list(dict.fromkeys((name.split("/")[0], "/".join(name.split("/")[2:])) for name in values))
        table.add_column("block")
        for phase, measure in measures:
            table.add_column(measure if phase == "train" else f"{measure} ({phase})", justify="right")
        for block in blocks:
            cells = [values.get(f"{phase}/{block}/{measure}") for phase, measure in measures]
            table.add_row(block.removeprefix("block"), *("" if cell is None else f"{cell:.4f}" for cell in cells))
        return Group(table, self._progress)


def _short(name: str) -> str:
    """``train/block2/infonce`` as ``block2 infonce``."""
    _, block, measure = name.split("/", 2)
    return f"{block} {measure}"
