"""Files of features, written as they come: npy, npz, safetensors and parquet.

An array has time first (an image its height), then the other axes of the grid, then channels: ``(T, C)`` of sound.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.files import write_atomically
from infomax_cli.errors import InfomaxError, UsageError

Format = Literal["npy", "npz", "parquet", "safetensors"]
Dtype = Literal["fp16", "fp32"]
Pool = Literal["mean", "none"]
FORMATS: tuple[Format, ...] = get_args(Format)
_DTYPES: dict[Dtype, str] = {"fp16": "<f2", "fp32": "<f4"}
_ROWS = 4096  # of a parquet row group


@dataclass(frozen=True)
class Placed:
    """An array's name, and where its frames lie: frame t at sample ``centre + hop t``, `rate` samples a second."""

    name: str
    depth: int
    hop: int
    centre: float
    rate: int | None


class Spool:
    """The rows of one array, on disk until it is known how many there are. With `pool` mean: their mean, one row."""

    def __init__(self, placed: Placed, time: int | None, pool: Pool, dtype: Dtype, folder: Path) -> None:
        self.placed, self.pool = placed, pool
        self.dtype = np.dtype(_DTYPES[dtype])
        self._time = time  # which dimension of (C, *grid) is time
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the spool
        self._row_shape: tuple[int, ...] = (0,)
        self._rows, self._sum, self._count = 0, torch.zeros(1), 0

    def add(self, values: Tensor) -> None:
        """A map ``(C, *grid)``; of the next frames, where there is time."""
        if self._time not in (None, 1):
            values = values.movedim(self._time or 1, 1)
        rows = values.movedim(0, -1)  # (T, ..., C)
        if self.pool == "mean":
            self._sum = self._sum + rows.double().flatten(0, -2).sum(0).cpu()
            self._count += math.prod(rows.shape[:-1])
            return
        self._row_shape = tuple(rows.shape[1:])
        self._rows += rows.shape[0]
        self._write(rows)

    def end(self) -> None:
        """Nothing more comes. Raises `InfomaxError` where nothing came at all."""
        if self.pool == "mean" and self._count:
            self._row_shape = tuple(self._sum.shape)
            self._rows = 1
            self._write((self._sum / self._count)[None])
        if not self._rows:
            raise InfomaxError("it is too short to make a frame")
        self._file.flush()

    def _write(self, rows: Tensor) -> None:
        values = rows.cpu().numpy().astype(self.dtype)
        if not np.isfinite(values).all():
            raise InfomaxError(f"features of depth {self.placed.depth} do not fit {self.dtype}", "take --dtype fp32")
        self._file.write(values.tobytes())

    @property
    def shape(self) -> tuple[int, ...]:
        return self._row_shape if self.pool == "mean" else (self._rows, *self._row_shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def copy_to(self, file: IO[bytes]) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 2**20)

    def rows(self, first: int, count: int) -> npt.NDArray[Any]:
        """``(N, channels of a row)``."""
        width = math.prod(self._row_shape)
        self._file.seek(first * width * self.dtype.itemsize)
        data = self._file.read(count * width * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(-1, width)

    def close(self) -> None:
        self._file.close()


def check_format(form: Format, depths: Sequence[int]) -> None:
    """Raise where a format cannot be written: before anything is computed."""
    if form == "npy" and len(depths) > 1:
        raise UsageError("--format npy holds one array, and these are several depths", "take npz or safetensors")
    if form == "parquet":
        _pyarrow()


def write_arrays(path: Path, form: Format, spools: Sequence[Spool], item: str) -> None:
    """All arrays of one input as one file, whole or not at all."""
    writers = {"npy": _write_npy, "npz": _write_npz, "safetensors": _write_safetensors, "parquet": _write_parquet}
    with write_atomically(path) as temporary:
        writers[form](temporary, spools, item)


def _write_npy(path: Path, spools: Sequence[Spool], item: str) -> None:
    with path.open("wb") as file:
        _npy(file, spools[0])


def _npy(file: IO[bytes], spool: Spool) -> None:
    header = {"descr": spool.dtype.str, "fortran_order": False, "shape": spool.shape}
    np.lib.format.write_array_header_1_0(file, header)
    spool.copy_to(file)


def _write_npz(path: Path, spools: Sequence[Spool], item: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for spool in spools:
            with archive.open(f"{spool.placed.name}.npy", "w", force_zip64=True) as file:
                _npy(file, spool)


def _write_safetensors(path: Path, spools: Sequence[Spool], item: str) -> None:
    """The format's own header, length first, since its library wants all in memory."""
    begin, header = 0, {}
    metadata = {"id": item} | {
        f"{spool.placed.name}.{key}": str(value)
        for spool in spools
        for key, value in (("hop", spool.placed.hop), ("centre", spool.placed.centre), ("rate", spool.placed.rate))
    }
    for spool in spools:
        kind = "F16" if spool.dtype.itemsize == 2 else "F32"
        where = [begin, begin + spool.size]
        header[spool.placed.name] = {"dtype": kind, "shape": list(spool.shape), "data_offsets": where}
        begin += spool.size
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spool in spools:
            spool.copy_to(file)


def _write_parquet(path: Path, spools: Sequence[Spool], item: str) -> None:
    """A row a frame: id, depth, frame, time in seconds (null in images and means), features."""
    pa, parquet = _pyarrow()
    value = pa.float16() if spools[0].dtype.itemsize == 2 else pa.float32()
    columns: Mapping[str, Any] = {
        "id": pa.string(), "depth": pa.int32(), "frame": pa.int64(), "time": pa.float64(), "features": pa.list_(value),
    }  # fmt: skip
    schema = pa.schema(list(columns.items()))
    with parquet.ParquetWriter(path, schema) as writer:
        for spool in spools:
            count = 1 if spool.pool == "mean" else spool.shape[0]
            for first in range(0, count, _ROWS):
                rows = spool.rows(first, _ROWS)
                offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
                frames = np.arange(first, first + len(rows))
                arrays = [
                    pa.array([item] * len(rows), pa.string()),
                    pa.array(np.full(len(rows), spool.placed.depth, np.int32)),
                    pa.array(frames),
                    pa.array(_seconds(spool, frames), pa.float64()),
                    pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1))),
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _seconds(spool: Spool, frames: npt.NDArray[Any]) -> list[float | None]:
    placed = spool.placed
    if placed.rate is None or spool.pool == "mean":
        return [None] * len(frames)
    return [float(second) for second in (placed.centre + placed.hop * frames) / placed.rate]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InfomaxError(
            "--format parquet needs pyarrow, which is not installed", "pip install 'infomax[parquet]'"
        ) from error
    return pa, parquet
