"""Good archives come out as they went in; hostile ones are refused, and touch nothing outside their folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infomax_cli.errors import DataError
from infomax_cli.fetching.archives import Limits, Unpacked, unpack
from infomax_cli.fetching.disk import DiskFull
from packing import member, tar, zipped

FILES = {
    "top/a.txt": b"one",
    "top/deep/b.bin": bytes(range(256)) * 30,
    "top/deep/empty": b"",
    "top/block": b"." * 512,
}
PLENTY = Limits(bytes=1 << 24, files=1000)
SECRET = b"what was there before"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with something beside it that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(SECRET)
    return tmp_path / "made"


def opened(packed: bytes, name: str, place: Path, limits: Limits = PLENTY, **options: object) -> Unpacked:
    archive = place.parent / name
    archive.write_bytes(packed)
    return unpack(archive, place, limits, **options)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_outside(place: Path, archive: str) -> bool:
    there = {path.name for path in place.parent.iterdir()} - {place.name, archive}
    return there == {"outside"} and tree(place.parent / "outside") == {"file": SECRET}


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", lambda: tar(FILES, "")),
        ("a.tar.gz", lambda: tar(FILES, "gz")),
        ("a.tgz", lambda: tar(FILES, "gz")),
        ("a.tar.bz2", lambda: tar(FILES, "bz2")),
        ("a.tar.xz", lambda: tar(FILES, "xz")),
        ("a.zip", lambda: zipped({"top/": b"", **FILES})),
    ],
)
def test_everything_comes_out_as_it_went_in(place: Path, name: str, pack: Callable[[], bytes]) -> None:
    told: list[int] = []
    taken = opened(pack(), name, place, advance=told.append)
    assert tree(place) == FILES
    assert sum(told) == sum(map(len, FILES.values()))
    assert taken == {
        path: (len(content), hashlib.blake2b(content, digest_size=16).hexdigest()) for path, content in FILES.items()
    }
    assert stat.S_IMODE((place / "top/a.txt").stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "packed", "becomes"),
    [
        ("images.gz", gzip.compress(b"pixels", mtime=0), "images"),
        ("images.bz2", bz2.compress(b"pixels"), "images"),
        ("images.xz", lzma.compress(b"pixels"), "images"),
        ("labels.txt", b"pixels", "labels.txt"),
    ],
)
def test_single_files(place: Path, name: str, packed: bytes, becomes: str) -> None:
    assert set(opened(packed, name, place)) == {becomes}
    assert tree(place) == {becomes: b"pixels"}


def test_only_what_is_asked_for_is_taken(place: Path) -> None:
    for name, packed in (("a.tar.gz", tar(FILES)), ("a.zip", zipped(dict(FILES)))):
        assert set(opened(packed, name, place, only={"top/a.txt", "top/nowhere"})) == {"top/a.txt"}
        assert tree(place) == {"top/a.txt": b"one"}


def test_the_name_counts_that_it_is_told(place: Path) -> None:
    archive = place.parent / "download.part"
    archive.write_bytes(gzip.compress(b"x"))
    assert set(unpack(archive, place, PLENTY, name="data.gz")) == {"data"}


# --- hostile ---------------------------------------------------------------------------------------------------------


def special(name: str, mode: int, content: bytes = b"") -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return zipped({**FILES, info: content})


HOSTILE_TARS = {
    "dots": [member("../outside/file", size=5)],
    "dots within": [member("top/../../outside/file", size=5)],
    "dots, a folder": [member("../new", tarfile.DIRTYPE)],
    "absolute": [member("/tmp/infomax-hostile", size=5)],
    "backslashes": [member("..\\outside\\file", size=5)],
    "a link out": [member("exit", tarfile.SYMTYPE, link="../outside"), member("exit/file", size=5)],
    "an absolute link": [member("exit", tarfile.SYMTYPE, link="/tmp"), member("exit/infomax-hostile", size=5)],
    "a link to nowhere": [member("loop", tarfile.SYMTYPE, link="loop")],
    "a link inside": [member("alias", tarfile.SYMTYPE, link="top/a.txt")],
    "a hard link out": [member("hard", tarfile.LNKTYPE, link="../outside/file"), member("hard", size=5)],
    "a hard link inside": [member("hard", tarfile.LNKTYPE, link="top/a.txt")],
    "a pipe": [member("pipe", tarfile.FIFOTYPE)],
    "a character device": [member("device", tarfile.CHRTYPE)],
    "a block device": [member("device", tarfile.BLKTYPE)],
}
HOSTILE_ZIPS = {
    "dots": zipped({**FILES, "../outside/file": b"hello"}),
    "dots, a folder": zipped({**FILES, "top/../../new/": b""}),
    "absolute": zipped({**FILES, "/tmp/infomax-hostile": b"hello"}),
    "backslashes": zipped({**FILES, "..\\outside\\file": b"hello"}),
    "a link": special("exit", stat.S_IFLNK | 0o777, b"../outside"),
    "a pipe": special("pipe", stat.S_IFIFO | 0o644),
    "a device": special("device", stat.S_IFBLK | 0o644),
}


@pytest.mark.parametrize("mode", ["gz", "bz2"])
@pytest.mark.parametrize("kind", HOSTILE_TARS)
@pytest.mark.parametrize("filtered", [True, False])
def test_a_hostile_tar_is_refused_and_nothing_outside_is_touched(
    place: Path, mode: str, kind: str, filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filtered:  # as in a Python before 3.11.4
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    name = f"a.tar.{mode}"
    with pytest.raises(DataError, match=rf"^{name} is refused: .*") as caught:
        opened(tar(FILES, mode, HOSTILE_TARS[kind]), name, place)
    assert "\n" not in caught.value.message
    assert nothing_outside(place, name)
    assert not Path("/tmp/infomax-hostile").exists()


@pytest.mark.parametrize("kind", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused_and_nothing_outside_is_touched(place: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"^a\.zip is refused: "):
        opened(HOSTILE_ZIPS[kind], "a.zip", place)
    assert nothing_outside(place, "a.zip")
    assert not Path("/tmp/infomax-hostile").exists()


ZEROS = b"\0" * (2 << 20)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("a.tar.gz", tar({"a": ZEROS, "b": ZEROS})),
        ("a.tar.bz2", tar({"a": ZEROS, "b": ZEROS}, "bz2")),
        ("a.zip", zipped({"a": ZEROS, "b": ZEROS})),
        ("a.gz", gzip.compress(ZEROS, mtime=0)),
    ],
)
def test_a_bomb_is_refused_before_it_fills_the_disk(place: Path, name: str, packed: bytes) -> None:
    assert len(packed) < 50_000
    with pytest.raises(DataError, match=r"is refused: it holds more than 1\.0 MiB"):
        opened(packed, name, place, Limits(bytes=1 << 20))
    assert sum(len(content) for content in tree(place).values()) <= 1 << 20


@pytest.mark.parametrize(("name", "pack"), [("a.tar.gz", tar), ("a.zip", lambda files: zipped(files))])
def test_too_many_files_are_refused(place: Path, name: str, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    with pytest.raises(DataError, match="is refused: it holds more than 50 files"):
        opened(pack({f"{number}": b"" for number in range(51)}), name, place, Limits(bytes=1 << 20, files=50))
    assert len(tree(place)) == 50


def test_a_header_that_would_fill_the_memory_is_refused(place: Path) -> None:
    """tarfile holds what such a header announces in memory: here 32 MiB, in an archive of 32 KiB."""
    size = 32 << 20
    info = member("././@PaxHeader", tarfile.XHDTYPE, size=size)
    packed = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * size + b"\0" * 1024)
    with pytest.raises(DataError, match="is refused: a header in it claims to be enormous"):
        opened(packed, "a.tar.gz", place)


def test_headers_without_end_are_refused(place: Path) -> None:
    pax = member("././@PaxHeader", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        opened(gzip.compress(pax * 20_000), "a.tar.gz", place)


def test_a_zip_that_lies_about_sizes_is_found_out(place: Path) -> None:
    packed = bytearray(zipped({"a": b"\0" * 5000}))
    central = packed.rindex(b"PK\x01\x02")
    packed[central + 24 : central + 28] = (10).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"a\.zip is damaged"):
        opened(bytes(packed), "a.zip", place)


def test_a_disk_that_takes_only_a_part_makes_no_half_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without a buffer returns how much it took when the disk gets full; only the next one fails."""

    class Filling(io.FileIO):
        def write(self, data: Any, /) -> int:
            if self.tell() == 700:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data)[:700])

    (archive := place.parent / "a.tar").write_bytes(tar({"a": b"x" * 900}, ""))
    open_any = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *given, **named: Filling(path, "w") if path.name == "a" else open_any(path, *given)
    )
    with pytest.raises(DiskFull, match="no space is left in"):
        unpack(archive, place, PLENTY)


# --- damaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz"])
def test_a_tar_that_is_cut_short_anywhere_is_never_taken_for_whole(place: Path, mode: str) -> None:
    packed = tar(FILES, mode)
    end = len(packed) if mode else len(packed.rstrip(b"\0")) // 512 * 512  # zeros at the end are the end
    ends = range(0, end, 128 if not mode else 1 + len(packed) // 40)
    for end in ends:
        with pytest.raises(DataError):
            opened(packed[:end], f"a.tar.{mode}".rstrip("."), place)


def test_a_header_that_is_damaged_is_no_end(place: Path) -> None:
    """tarfile takes it for one."""
    packed = bytearray(tar(FILES, ""))
    header = packed.rindex(b"top/block")
    packed[header] ^= 1
    with pytest.raises(DataError, match=r"a\.tar is damaged, or cut short"):
        opened(bytes(packed), "a.tar", place)


def test_a_damaged_zip(place: Path) -> None:
    packed = bytearray(zipped(dict(FILES)))
    packed[200] ^= 255
    for spoilt in (bytes(packed), packed[:-30], b"no zip at all"):
        with pytest.raises(DataError, match=r"a\.zip is damaged, or cut short"):
            opened(bytes(spoilt), "a.zip", place)


def test_bytes_that_changed_are_noticed_by_the_checksum_at_the_end(place: Path) -> None:
    whole = tar({"a": b"1" * 1000}, "")
    compressor = zlib.compressobj(0, wbits=31)
    packed = bytearray(compressor.compress(whole) + compressor.flush())
    packed[packed.index(b"1" * 500)] ^= 3
    with pytest.raises(DataError, match=r"a\.tar\.gz is damaged.*CRC check failed"):
        opened(bytes(packed), "a.tar.gz", place)


def test_what_cannot_be_unpacked_is_one_line(place: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"x")
    locked = bytearray(packed.getvalue())
    locked[6] |= 1  # encrypted, say the header and the directory
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked: RuntimeError: .*encrypted"):
        opened(bytes(locked), "a.zip", place)
