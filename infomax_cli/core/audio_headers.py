"""The lengths of plain WAV and FLAC files by their first bytes, six times as fast as by libsndfile.

Whatever is not quite as it should be is left to libsndfile, which then says what is wrong, or reads it all the same.
"""

from __future__ import annotations

import contextlib
import os
import struct

_START = 4096  # bytes in which a WAV's audio is to begin
_WIDTHS = {1: (8, 16, 24, 32), 3: (32, 64)}  # bits of a sample by the WAV's format: whole numbers, floats
_FLAC_WIDTHS = (8, 16, 24)  # bits
_STREAMINFO = 34  # bytes


def quick_header(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """(frames, rate, channels) of a file that is whole as far as its size tells; None where that is not certain."""
    with contextlib.suppress(OSError, struct.error):
        handle = os.open(path, os.O_RDONLY)
        try:
            start = os.read(handle, _START)
            if start[:4] == b"RIFF":
                return _wav(start, os.fstat(handle).st_size)
            if start[:4] == b"fLaC":
                return _flac(start, handle)
        finally:
            os.close(handle)
    return None


def _wav(start: bytes, size: int) -> tuple[int, int, int] | None:
    place, form = 12, None
    while start[8:12] == b"WAVE" and place < len(start):
        name, length = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"fmt ":
            form = struct.unpack_from("<HHIIHH", start, place)
        elif name == b"data":
            return None if form is None or not length or place + length > size else _frames(length, *form)
        place += length + length % 2
    return None


def _frames(
    length: int, kind: int, channels: int, rate: int, _: int, block: int, bits: int
) -> tuple[int, int, int] | None:
    plain = bits in _WIDTHS.get(kind, ()) and channels and rate and block == channels * bits // 8
    return (length // block, rate, channels) if plain and length % block == 0 else None


def _flac(start: bytes, handle: int) -> tuple[int, int, int] | None:
    """What STREAMINFO says (RFC 9639, section 8.2), where after all blocks of metadata a frame begins."""
    kind, length = start[4], int.from_bytes(start[5:8], "big")
    if kind & 0x7F or length != _STREAMINFO:
        return None
    packed = int.from_bytes(start[18:26], "big")  # 20 bits of rate, 3 of channels, 5 of a sample's width, 36 of length
    frames, channels, rate = packed & (1 << 36) - 1, (packed >> 41 & 7) + 1, packed >> 44
    if not frames or not rate or (packed >> 36 & 31) + 1 not in _FLAC_WIDTHS:
        return None
    place = 8 + length
    while not kind & 0x80:  # which marks the last block
        head = os.pread(handle, 4, place)
        if len(head) < 4:
            return None
        kind, place = head[0], place + 4 + int.from_bytes(head[1:], "big")
    sync = os.pread(handle, 2, place)
    return (frames, rate, channels) if sync in (b"\xff\xf8", b"\xff\xf9") else None
