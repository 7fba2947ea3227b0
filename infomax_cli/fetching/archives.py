"""Unpacking what strangers have packed, into a fresh folder and nowhere else.

Only files and folders come out, under relative names without ``..``; an archive with anything else in it is refused
whole, and so is one that holds more than it may. Links are refused even where they stay inside: in several versions of
Python they lead past the filters of `tarfile`.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from infomax_cli.errors import DataError
from infomax_cli.fetching.digests import new_stamp
from infomax_cli.fetching.disk import disk_errors, write_whole
from infomax_cli.wording import describe_bytes, describe_error

CHUNK = 1 << 20
LARGEST_READ = 1 << 24  # bytes asked for at once: tarfile holds whatever a header announces in memory
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIP = (".zip",)

Unpacked = dict[str, tuple[int, str]]
"""Size and stamp of each file, by its path within the folder."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most."""

    bytes: int
    files: int = 500_000


class _Refused(Exception):  # noqa: N818
    """The archive is not unpacked, saying why."""


class _Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


def unpack(
    archive: Path,
    folder: Path,
    limits: Limits,
    *,
    name: str | None = None,
    only: Collection[str] | None = None,
    advance: Callable[[int], Any] = lambda count: None,
) -> Unpacked:
    """Put what an archive holds into `folder`, which is made; a file that is no archive is copied there.

    `name` is what the file is called, where `archive` is not; `only` these paths are taken. `advance` hears of bytes
    written. Raises `DataError`; what is in `folder` is worth nothing then.
    """
    name = name or archive.name
    room = _Room(folder, limits, only, advance)
    with disk_errors(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if name.endswith(TAR):
            _untar(archive, name, room)
        elif name.endswith(ZIP):
            _unzip(archive, room)
        else:
            with _decompress(archive, name) as file:
                room.take(unpacked_name(name), file)
    except _Refused as refusal:
        raise DataError(f"{name} is refused: {refusal}", "nothing of it was used; tell whoever packed it") from refusal
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise _damaged(name, describe_error(error)) from error
    except (NotImplementedError, RuntimeError) as error:  # a zip that is encrypted, or packed in a rare way
        raise DataError(f"{name} cannot be unpacked: {describe_error(error)}") from error
    return room.taken


def unpacked_name(name: str) -> str:
    """What a file that holds a single one is called afterwards."""
    path = PurePosixPath(name)
    return path.stem if path.suffix in (".gz", ".bz2", ".xz") else name


def _decompress(path: Path, name: str) -> IO[bytes]:
    if name.endswith((".gz", ".tgz")):
        return cast(IO[bytes], gzip.open(path))
    if name.endswith(".bz2"):
        return bz2.open(path)
    if name.endswith(".xz"):
        return lzma.open(path)
    return path.open("rb")


def _damaged(name: str, why: str) -> DataError:
    return DataError(f"{name} is damaged, or cut short: {why}", "delete it, and give the same command again")


@dataclass
class _Room:
    """The folder that is filled, and how much of what it may hold has come."""

    folder: Path
    limits: Limits
    only: Collection[str] | None
    advance: Callable[[int], Any]
    taken: Unpacked = field(default_factory=dict)
    members: int = 0
    written: int = 0

    def admit(self, name: str) -> PurePosixPath:
        """Count a member, and judge its name."""
        self.members += 1
        if self.members > self.limits.files:
            raise _Refused(f"it holds more than {self.limits.files:,} files")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise _Refused(f"{name!r} in it would lie outside its folder")
        return path

    def make_folder(self, name: str) -> None:
        path = self.admit(name)
        if self.only is None:
            with disk_errors(self.folder.parent):
                (self.folder / path).mkdir(parents=True, exist_ok=True)

    def take(self, name: str, source: _Readable) -> None:
        """Write one file."""
        path = str(self.admit(name))
        if self.only is not None and path not in self.only:
            return
        hashed, size = new_stamp(), 0
        with self._create(path) as target:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                self.written += len(chunk)
                if self.written > self.limits.bytes:
                    raise _Refused(f"it holds more than {describe_bytes(self.limits.bytes)}")
                hashed.update(chunk)
                with disk_errors(self.folder.parent):
                    write_whole(target, chunk)
                self.advance(len(chunk))
        self.taken[path] = (size, hashed.hexdigest())

    @contextlib.contextmanager
    def _create(self, path: str) -> Iterator[IO[bytes]]:
        with disk_errors(self.folder.parent):
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("wb", buffering=0)
        with file:
            yield file


# --- tar -------------------------------------------------------------------------------------------------------------


class _Decompressed:
    """The tar within a file, read forward. tarfile may neither be made to hold much of it in memory, nor may it read
    more than the archive is allowed to hold."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.limit, self.place = file, limit, 0
        self.last = b""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= LARGEST_READ:
            raise _Refused("a header in it claims to be enormous")
        data = self.last = self.file.read(count)
        self.place += len(data)
        if self.place > self.limit:
            raise _Refused(f"it holds more than {describe_bytes(self.limit)}")
        return data

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> int:
        """Only forward: tarfile goes from member to member."""
        while self.place < place:
            if not self.read(min(place - self.place, CHUNK)):
                raise EOFError("it ends in the middle of a file")
        return self.place


def _untar(archive: Path, name: str, room: _Room) -> None:
    headers = 4096 * room.limits.files  # room for them, and for what fills up the blocks
    with _decompress(archive, name) as file:
        stream = _Decompressed(file, room.limits.bytes + headers)
        with tarfile.TarFile(fileobj=stream, mode="r") as tar:  # type: ignore[arg-type]
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined] # it would remember every one of them
                _take_from_tar(tar, member, room)
        # tarfile takes whatever is no header for the end; only zeros are
        if len(stream.last) != tarfile.BLOCKSIZE or stream.last.strip(b"\0"):
            raise EOFError("it ends in something that is no file")
        while stream.read(CHUNK):  # to its end, where the checksum of what was compressed stands
            pass


def _take_from_tar(tar: tarfile.TarFile, member: tarfile.TarInfo, room: _Room) -> None:
    if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on; what follows does not rely on it
        try:
            tarfile.data_filter(member, str(room.folder))
        except tarfile.FilterError as error:
            raise _Refused(str(error)) from error
    if member.isdir():
        room.make_folder(member.name)
    elif member.isreg() and (content := tar.extractfile(member)) is not None:
        room.take(member.name, content)
    else:
        raise _Refused(f"{member.name!r} in it is neither a file nor a folder")


# --- zip -------------------------------------------------------------------------------------------------------------


def _unzip(archive: Path, room: _Room) -> None:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0  # 3: made on Unix
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"{info.filename!r} in it is neither a file nor a folder")
            if info.is_dir():
                room.make_folder(info.filename)
            else:
                with packed.open(info) as file:
                    room.take(info.filename, file)
