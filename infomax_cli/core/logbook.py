"""What a run writes down: metrics.jsonl and TensorBoard. The screen is the trainer's `Display`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Meter:
    """Means of named scalars since the last reading, kept where they were computed, so that nothing synchronises."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0) -> None:
        for name, value in values.items():
            value = value.detach().double() * weight if value.device.type != "mps" else value.detach() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def read(self) -> dict[str, float]:
        """The means so far; the meter begins anew."""
        means = {name: float(total) / self._weights[name] for name, total in self._sums.items()}
        self._sums, self._weights = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        return {"sums": {name: float(total) for name, total in self._sums.items()}, "weights": dict(self._weights)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = {name: torch.tensor(total, dtype=dtype, device=device) for name, total in state["sums"].items()}
        self._weights = dict(state["weights"])


class Logbook:
    """One line of JSON a reading in ``metrics.jsonl`` (only what the seed determines), and TensorBoard beside it.

    Opened at `step`, the last that a checkpoint holds: whatever was written after it is cut away.
    """

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            self._cut(run, step)
            self._file = run.metrics.open("a", encoding="utf-8")
            self.board: SummaryWriter = SummaryWriter(str(run.path), purge_step=step + 1 if step else None)
        except OSError as error:
            raise CheckpointError(f"cannot write the log in {run.path}: {error.strerror}") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def watch(self, step: int, values: Mapping[str, float]) -> None:
        """For TensorBoard alone: what differs from machine to machine, such as speed."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Put everything on disk, before a checkpoint that vouches for it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.board.flush()

    def close(self) -> None:
        self._file.close()
        self.board.close()

    @staticmethod
    def _cut(run: Run, step: int) -> None:
        if not run.metrics.exists():
            return
        with run.metrics.open("rb+") as file:
            end = 0
            for line in file:
                try:
                    if json.loads(line)["step"] > step:
                        break
                except ValueError:  # the line that was being written when the run was killed
                    break
                end += len(line)
            file.truncate(end)
