"""Checksums as they are published, ``algorithm:value``: sha256, md5, or ``git``, the id that git gives to a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CHUNK = 1 << 20


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def begin(digest: str, size: int | None) -> Hash:
    """A hash that is to be fed a file of `size` bytes, and should end at `digest`.

    Raises `ValueError` for an algorithm that is not known, or where git's needs the size and it is not known.
    """
    algorithm, _, _ = digest.partition(":")
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm != "git":
        raise ValueError(f"{digest}: not sha256:, md5: or git:")
    if size is None:
        raise ValueError("the server does not say how large the file is, and so it cannot be checked")
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def agrees(hashed: Hash, digest: str) -> bool:
    return hashed.hexdigest() == digest.partition(":")[2].lower()


def has_digest(path: Path, digest: str, advance: Callable[[int], Any] = lambda count: None) -> bool:
    """Whether the whole of a file has this checksum."""
    hashed = begin(digest, path.stat().st_size)
    feed(hashed, path, advance)
    return agrees(hashed, digest)


def feed(hashed: Hash, path: Path, advance: Callable[[int], Any] = lambda count: None) -> None:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
            advance(len(chunk))


def stamp(path: Path, advance: Callable[[int], Any] = lambda count: None) -> str:
    """What tells an unpacked file from a damaged one: 16 bytes of BLAKE2b, in hex."""
    hashed = new_stamp()
    feed(hashed, path, advance)
    return hashed.hexdigest()


def new_stamp() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
