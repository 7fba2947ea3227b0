"""What a run leaves to read: ``metrics.jsonl`` and TensorBoard's events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run


@dataclass(frozen=True)
class Reading:
    """Means of scalars, and of vectors with a value for each unit."""

    values: Mapping[str, float]
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Meter:
    """Means of named scalars and vectors since the last reading, kept where they were computed, so that nothing
    synchronises."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0) -> None:
        for name, value in values.items():
            value = value.detach().double() * weight if value.device.type != "mps" else value.detach() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def read(self) -> Reading:
        """The means so far; the meter begins anew."""
        means = {name: total / self._weights[name] for name, total in self._sums.items()}
        self._sums, self._weights = {}, {}
        return Reading(
            values={name: float(mean) for name, mean in means.items() if mean.dim() == 0},
            vectors={name: mean.tolist() for name, mean in means.items() if mean.dim()},
        )

    def state(self) -> dict[str, Any]:
        return {"sums": {name: total.tolist() for name, total in self._sums.items()}, "weights": dict(self._weights)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = {name: torch.tensor(total, dtype=dtype, device=device) for name, total in state["sums"].items()}
        self._weights = dict(state["weights"])


class Logbook:
    """One line of JSON a reading in ``metrics.jsonl`` (only what the seed determines), and TensorBoard beside it.

    Opened at `step` with the `marks` that `sync` returned for the checkpoint of that step: whatever was written after
    them is cut away, so that the logs hold what those of an uninterrupted run hold. No marks, nothing is cut.
    """

    def __init__(self, run: Run, step: int, marks: Mapping[str, int] | None) -> None:
        self._run = run
        with self.writing():
            if marks is not None:
                _cut(run, marks)
            self._file = run.metrics.open("a", encoding="utf-8")
            self.board: SummaryWriter = _Board(run.path, purge_step=step + 1 if marks else None)

    def write(self, step: int, reading: Reading) -> None:
        """A line in both; what is not a number is null in JSON, which has no word for it. Vectors are histograms, in
        TensorBoard alone."""
        numbers = {name: value if math.isfinite(value) else None for name, value in reading.values.items()}
        with self.writing():
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
            self.watch(step, reading.values)
            for name, vector in reading.vectors.items():
                if all(map(math.isfinite, vector)):
                    self.board.add_histogram(name, torch.tensor(vector), step)
            self.board.flush()

    def watch(self, step: int, values: Mapping[str, float]) -> None:
        """For TensorBoard alone."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def sync(self) -> dict[str, int]:
        """Put everything on disk, before a checkpoint that vouches for it, and return how long each file is now."""
        with self.writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self.board.flush()
            return {path.name: path.stat().st_size for path in _files(self._run)}

    def close(self) -> None:
        """What could not be written by now no checkpoint vouches for: it is not worth hiding another error."""
        for file in (self._file, self.board):
            with contextlib.suppress(OSError):
                file.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What cannot be written here becomes a `CheckpointError`."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"cannot write the log in {self._run.path}: {error.strerror or error}",
                "make room, or choose another folder with --runs; the last checkpoint is whole",
            ) from error


@contextlib.contextmanager
def open_board(run: Run) -> Iterator[SummaryWriter]:
    """TensorBoard's events of a run for those who are not its trainer. Raises `CheckpointError` where they cannot be
    written."""
    try:
        board = _Board(run.path, purge_step=None, suffix="")
        try:
            yield board
            board.flush()
        finally:
            with contextlib.suppress(OSError):  # what could not be flushed above has been told
                board.close()
    except OSError as error:
        raise CheckpointError(
            f"cannot write TensorBoard's events in {run.path}: {error.strerror or error}",
            "make room there, or make it writable",
        ) from error


_OURS = ".train"  # tells the trainer's events from those that others write into the run


def _files(run: Run) -> list[Path]:
    return [run.metrics, *sorted(run.path.glob(f"events.out.tfevents.*{_OURS}"))]


def _cut(run: Run, marks: Mapping[str, int]) -> None:
    for path in _files(run):
        if path.name not in marks:
            path.unlink(missing_ok=True)
        elif path.stat().st_size > marks[path.name]:
            os.truncate(path, marks[path.name])


class _Board(SummaryWriter):
    """A `SummaryWriter` that writes when it is told to, in the thread that told it.

    TensorBoard's own writes in a thread, where a full disk ends in a traceback that nobody can catch.
    """

    def __init__(self, folder: Path, purge_step: int | None, suffix: str = _OURS) -> None:
        self._folder, self._suffix = folder, suffix
        super().__init__(str(folder), purge_step=purge_step)

    def _get_file_writer(self) -> FileWriter:
        given: FileWriter | None = self.file_writer
        if given is not None:
            return given
        made = _Events(self._folder, self._suffix)
        self.file_writer = made  # type: ignore[assignment]  # torch declares nothing, so that mypy thinks it None
        self.all_writers = {str(self._folder): made}  # type: ignore[assignment]
        if self.purge_step is not None:  # for a TensorBoard that has already read what was cut away
            made.add_event(Event(session_log=SessionLog(status=SessionLog.START)), self.purge_step)
        return made

    def close(self) -> None:
        """Once, and without the flush that comes first in TensorBoard's: closing flushes, and closes even so."""
        given: FileWriter | None = self.file_writer
        if given is not None:
            given.close()
        self.file_writer = self.all_writers = None


class _Events(FileWriter):
    """A `FileWriter` onto a new file of events in `folder`."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.event_writer = _EventFile(folder, suffix)  # in place of the one with a thread
        self.add_event(Event(file_version="brain.Event:2"))


class _EventFile:
    """What a `FileWriter` asks of the file below it."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._file = _open_new(folder, suffix)
        self._records = RecordWriter(self._file)
        self.flush, self.close = self._file.flush, self._file.close

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def _open_new(folder: Path, suffix: str) -> IO[bytes]:
    """Named as TensorBoard names its files: it reads them in the order of their names."""
    for number in range(1000):
        unique = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{number}"
        with contextlib.suppress(FileExistsError):
            return (folder / f"events.out.tfevents.{unique}{suffix}").open("xb")
    raise FileExistsError(f"no free name for TensorBoard's events in {folder}")
