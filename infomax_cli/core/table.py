"""Many rows of features in half the memory: fp16 whose units fit what is kept, in memory or in a file."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO

import numpy as np
import torch
from torch import Tensor

from infomax_cli.core.scratch import open_scratch, write_scratch
from infomax_cli.errors import InfomaxError

_BLOCK = 2**21  # values that are coded together
_PART = 2**22  # values that are read together: 16 MiB in fp32


@dataclass(frozen=True)
class Table:
    """Numbers ``(N, D)``, kept in fp16, read in fp32.

    `block` rows are coded together: in column d of block b, a number is ``coded * unit[b, d] + shift[b, d]``. `coded`
    may be a file that is mapped into memory. Where there are `places`, those rows of `coded` are the table.
    """

    coded: Tensor
    unit: Tensor
    shift: Tensor
    block: int
    places: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.coded if self.places is None else self.places), self.coded.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def at(self, places: Tensor) -> Table:
        """The table of those rows, of which nothing is read yet."""
        return replace(self, places=places if self.places is None else self.places[places])

    def take(self, places: Tensor) -> Tensor:
        """Those rows ``(n, D)``, wherever they are."""
        places = places if self.places is None else self.places[places]
        taken = torch.empty(len(places), self.coded.shape[1])
        size = rows_of(_PART, self.coded.shape[1])
        for found, own in zip(taken.split(size), places.split(size), strict=True):  # type: ignore[no-untyped-call]
            blocks = own // self.block
            found.copy_(self.coded[own]).mul_(self.unit[blocks]).add_(self.shift[blocks])
        return taken

    def slice(self, first: int, last: int) -> Tensor:
        """The rows from `first` to before `last`."""
        if self.places is not None:
            return self.take(torch.arange(first, last))
        read = self.coded[first:last].float()
        for block in range(first // self.block, -(-last // self.block)):
            own = read[max(0, block * self.block - first) : (block + 1) * self.block - first]
            own.mul_(self.unit[block]).add_(self.shift[block])
        return read

    def parts(self, size: int) -> Iterator[Tensor]:
        """All rows in their order, `size` at a time."""
        for first in range(0, len(self), size):
            yield self.slice(first, min(first + size, len(self)))


def rows_of(values: int, dims: int) -> int:
    """How many rows of `dims` make so many values; at least one."""
    return max(1, values // max(1, dims))


def code(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(N, D)`` in fp16, and the unit and the shift ``(D,)`` of each column.

    Units are powers of two that put a column's largest number just below 2^15: nothing overflows, what is 2^29 times
    smaller still has all eleven bits, and the rounding of a number does not depend on its neighbours. Of a column far
    from zero those bits would go to its mean: it is kept without that. `ValueError` on what is not finite.
    """
    mean, deviation = rows.mean(0), rows.std(0, correction=0)
    shift = torch.where(mean.abs() > 8 * deviation, mean, 0.0)
    rows = rows - shift
    largest = rows.abs().amax(0)
    if not largest.isfinite().all():
        raise ValueError("some features are not finite")
    unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent.clamp_min(-100) - 15)
    return (rows / unit).half(), unit, shift


class TableWriter:
    """A table in the making: in memory, until it is told to go on in a file. `name` says whose features those are."""

    def __init__(self, name: str) -> None:
        self.name, self.rows, self.dims = name, 0, 0
        self._coded: list[Tensor] = []  # blocks, where there is no file
        self._scales: list[tuple[Tensor, Tensor]] = []
        self._pending: list[Tensor] = []  # in fp32, less than a block
        self._waiting = 0  # rows of those
        self._file: FileIO | None = None

    @property
    def bytes(self) -> int:
        return 2 * self.rows * self.dims

    def add(self, rows: Tensor) -> None:
        self.rows, self.dims = self.rows + len(rows), rows.shape[1]
        self._pending.append(rows.float().cpu())
        self._waiting += len(rows)
        if self._waiting >= self._block:
            *whole, rest = torch.cat(self._pending).split(self._block)  # type: ignore[no-untyped-call]
            whole, rest = ([*whole, rest], rest[:0]) if len(rest) == self._block else (whole, rest.clone())
            self._pending, self._waiting = [rest], len(rest)
            for block in whole:
                self._write(block)

    def to_file(self) -> None:
        """Move what is there into a file without a name, where all that follows goes too."""
        if self._file is None:
            self._file = open_scratch()
            weakref.finalize(self, self._file.close)
            for coded in self._coded:
                write_scratch(self._file, _bytes(coded))
            self._coded = []

    def keep(self, mask: Tensor) -> None:
        """Drop the rows that are not in `mask` ``(rows,)``."""
        table, block = self.finish(), self._block
        self.rows, self._coded, self._scales, self._pending, self._waiting = 0, [], [], [], 0
        if self._file is not None:
            self._file.seek(0)
        # in a file, a block is written only where all has been read: what is kept is never longer than what was there
        for rows, kept in zip(table.parts(block), mask.split(block), strict=True):  # type: ignore[no-untyped-call]
            self.add(rows[kept])
        del table
        if self._file is not None:
            self._file.truncate()

    def finish(self) -> Table:
        """The table of all rows so far."""
        if self._waiting:
            self._write(torch.cat(self._pending))
            self._pending, self._waiting = [], 0
        if not self.rows:
            nothing = torch.empty(0, self.dims)
            return Table(nothing.half(), nothing, nothing, self._block)
        if self._file is None:
            coded = torch.cat(self._coded)
        else:
            # shared: of a private mapping that may be written to, Linux wants to be able to hold all in memory
            coded = torch.from_numpy(np.memmap(self._file, np.float16, "r+", shape=(self.rows, self.dims)))
        units, shifts = zip(*self._scales, strict=True)
        return Table(coded, torch.stack(units), torch.stack(shifts), self._block)

    @property
    def _block(self) -> int:
        return rows_of(_BLOCK, self.dims)

    def _write(self, rows: Tensor) -> None:
        try:
            coded, unit, shift = code(rows)
        except ValueError as error:
            hint = "has the training diverged? probe an earlier --step"
            raise InfomaxError(f"{self.name}: {error}", hint) from None
        self._scales.append((unit, shift))
        if self._file is None:
            self._coded.append(coded)
        else:
            write_scratch(self._file, _bytes(coded))


def _bytes(coded: Tensor) -> memoryview:
    return coded.numpy().data.cast("B")
