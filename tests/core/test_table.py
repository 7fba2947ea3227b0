"""Features in fp16: nothing overflows, nothing vanishes, and what is in a file leaves nothing behind."""

from __future__ import annotations

import errno
import shutil
import tempfile
from io import FileIO
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infomax_cli.core import scratch, table
from infomax_cli.core.table import Table, TableWriter
from infomax_cli.errors import InfomaxError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are; blocks are of 64 values, parts of 256."""
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    monkeypatch.setattr(table, "_BLOCK", 64)
    monkeypatch.setattr(table, "_PART", 256)
    return tmp_path / "scratch"


def written(x: Tensor, *, file: bool = False, pieces: int = 7) -> TableWriter:
    """Comes in pieces; goes into a file half-way."""
    writer = TableWriter("depth 3")
    for place, piece in enumerate(x.split(pieces)):
        if file and 2 * place >= len(x) / pieces:
            writer.to_file()
        writer.add(piece)
    return writer


def noise(rows: int = 100, dims: int = 4) -> Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e8, 1e-8, 1e30, 1e-30])
def test_numbers_of_any_size_are_kept_to_eleven_bits(size: float, file: bool) -> None:
    x = noise() * size
    kept = written(x, file=file).finish()
    assert kept.coded.dtype == torch.half
    torch.testing.assert_close(kept.slice(0, 100), x, rtol=2**-11, atol=size * 1e-8)


def test_columns_and_blocks_have_units_of_their_own() -> None:
    x = noise() * torch.logspace(-12, 12, 4) * torch.logspace(-6, 6, 100).unsqueeze(1)
    torch.testing.assert_close(written(x).finish().slice(0, 100), x, rtol=2**-11, atol=0)


def test_what_is_far_from_zero_keeps_its_differences() -> None:
    x = 5000 + noise() * 0.1  # whole numbers beyond 2048 are two apart in fp16
    kept = written(x).finish().slice(0, 100)
    assert (kept - x).abs().max() < 5e-4
    assert torch.equal(written(torch.full((50, 4), 3.3)).finish().slice(0, 50), torch.full((50, 4), 3.3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    x = noise()
    x[40, 2] = bad
    with pytest.raises(InfomaxError, match="depth 3: some features are not finite"):
        written(x)


@pytest.mark.parametrize("file", [False, True])
def test_rows_are_read_wherever_they_are(file: bool) -> None:
    kept = written(noise(), file=file).finish()
    whole = kept.slice(0, 100)
    assert kept.shape == (100, 4)
    assert torch.equal(torch.cat([*kept.parts(30)]), whole)
    assert torch.equal(kept.slice(13, 61), whole[13:61])
    places = torch.tensor([99, 0, 17, 16, 15, 17])
    assert torch.equal(kept.take(places), whole[places])
    some = kept.at(torch.arange(3, 90, 2))
    assert torch.equal(some.slice(0, len(some)), whole[3:90:2])
    assert torch.equal(some.at(torch.tensor([5, 1])).take(torch.tensor([1])), whole[[5]])


@pytest.mark.parametrize("file", [False, True])
def test_rows_are_dropped_in_place(file: bool, folder: Path) -> None:
    writer = written(noise(), file=file)
    mask = torch.arange(100) % 3 == 0
    writer.keep(mask)
    assert writer.bytes == 34 * 4 * 2
    if file:
        assert writer._file is not None
        assert writer._file.seek(0, 2) <= writer.bytes  # the rest is still to be written
    writer.add(noise(50))
    torch.testing.assert_close(
        writer.finish().slice(0, 84), torch.cat([noise()[mask], noise(50)]), rtol=2**-10, atol=1e-6
    )
    writer = written(noise(), file=file)
    writer.keep(torch.zeros(100, dtype=torch.bool))
    assert len(writer.finish()) == 0


def test_a_file_has_no_name(folder: Path) -> None:
    kept = written(noise(), file=True).finish()
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    torch.testing.assert_close(kept.slice(0, 100), noise(), rtol=2**-11, atol=1e-6)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: FileIO("/dev/full", "r+"))
    with pytest.raises(InfomaxError, match=f"the disk is full: features do not fit into {folder}") as caught:
        written(noise(), file=True)
    assert caught.value.hint is not None
    assert "INFOMAX_CACHE" in caught.value.hint
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.raises(InfomaxError, match=f"cannot keep features in {folder}: file exists"):
        scratch.open_scratch()


def test_other_failures_of_the_disk_say_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, data: memoryview) -> int:
            raise OSError(errno.EIO, "input/output error")

    with pytest.raises(InfomaxError, match=r"cannot keep features in .*: input/output error"):
        scratch.write_scratch(Broken(), memoryview(b"x"))  # type: ignore[arg-type]


def test_room_is_what_the_disk_has_but_for_a_margin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * scratch.MARGIN))
    assert not folder.exists()
    assert scratch.scratch_room() == 2 * scratch.MARGIN


def test_an_empty_table_has_no_rows() -> None:
    assert len(TableWriter("depth 0").finish()) == 0
    assert isinstance(TableWriter("depth 0").finish(), Table)
