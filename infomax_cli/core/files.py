"""Writing so that a reader sees the old file or the new one, never half of either; and a cache for indexes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


def cache_root() -> Path:
    """Where infomax keeps what it can make again: ``$INFOMAX_CACHE``, else ``~/.cache/infomax``."""
    if given := os.environ.get("INFOMAX_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infomax"


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and takes `path`'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def hold(path: Path, busy: Exception) -> Iterator[None]:
    """Hold a lock, the file `path`, or raise `busy` where another process does; the system frees it when we die.

    A record lock, which belongs to this process alone: the loader's workers, who may outlive it for seconds, would
    share in the other kind.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise busy from error
            # a file system without locks: better unguarded than not at all
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class ArrayCache:
    """Arrays by name, kept as `IndexCache` keeps JSON, for what is too large for that."""

    def __init__(self, kind: str, key: Any) -> None:
        self.path = IndexCache(kind, key).path.with_suffix(".npz")

    def read(self) -> dict[str, npt.NDArray[Any]] | None:
        """What was written; None where there is nothing, or nothing that can be read."""
        import numpy as np

        try:
            with np.load(self.path, allow_pickle=False) as kept:
                return dict(kept)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            return None

    def write(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        import numpy as np

        with contextlib.suppress(OSError), write_atomically(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type] # numpy has an option beside them


class IndexCache:
    """JSON that is dear to make and cheap to keep, under `cache_root`, valid while its `key` stays the same.

    A cache that cannot be read or written is no error: the value is made again.
    """

    def __init__(self, kind: str, key: Any) -> None:
        text = json.dumps(key, sort_keys=True, default=str)
        self.path = cache_root() / kind / f"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"

    def get(self, make: Callable[[], Any]) -> Any:
        """The cached value, or what `make()` returns, which is then kept. The value must survive JSON."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.path.read_text(encoding="utf-8"))
        value = make()
        with contextlib.suppress(OSError):
            write_text(self.path, json.dumps(value))
        return value
