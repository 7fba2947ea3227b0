"""One file over HTTP, whole or not at all: resumed, retried, and held against its size and checksum.

While a file comes it is called ``NAME.part``, with what is known of it in ``NAME.part.json``; it gets its name when it
is whole. A process may be killed at any moment: the next one goes on from the bytes that are there.
"""

from __future__ import annotations

import contextlib
import email.message
import http.client
import json
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from infomax_cli import __version__
from infomax_cli.core.files import write_text
from infomax_cli.errors import DataError
from infomax_cli.fetching import digests
from infomax_cli.fetching.catalogue import RemoteFile
from infomax_cli.fetching.disk import disk_errors
from infomax_cli.fetching.watch import Watch
from infomax_cli.wording import describe_bytes, describe_error

CHUNK = 1 << 18
LONGEST_PAUSE = 30.0  # seconds
STRIKES = 3  # times that a server may send something else than it should before it is given up
_FOR_LATER = (408, 425, 429, 500, 502, 503, 504)  # answers that another request may change


@dataclass(frozen=True, kw_only=True)
class Patience:
    """`timeout`: seconds without a byte after which a server counts as silent. `retries`: attempts in a row that may
    bring nothing more. `backoff`: seconds before the first of them; they double from one to the next."""

    timeout: float = 30.0
    retries: int = 5
    backoff: float = 0.5


class Stopped(Exception):  # noqa: N818
    """Raised where the file is not wanted any more; what came is kept."""


class _Failed(Exception):  # noqa: N818
    """An attempt failed, saying why. `final`: this server is given up. `strike`: it sent something else than it should.
    `wait`: seconds that it asks for."""

    def __init__(self, why: str, *, final: bool = False, strike: bool = False, wait: float = 0.0) -> None:
        super().__init__(why)
        self.final, self.strike, self.wait = final, strike, wait


def fetch(remote: RemoteFile, path: Path, *, patience: Patience, watch: Watch, stop: threading.Event) -> None:
    """Bring a file to `path`, from whichever of its servers has it. Raises `DataError`, with what came kept; `Stopped`
    soon after `stop` is set."""
    partial = _Partial(path, remote, watch)
    reasons = dict.fromkeys(remote.urls, "")
    strikes = dict.fromkeys(remote.urls, 0)
    waiting, failures = list(remote.urls), 0
    try:
        while waiting and failures <= patience.retries:
            url, furthest = waiting[0], partial.furthest
            try:
                _attempt(url, partial, patience, stop)
                partial.finish()
                return
            except _Failed as failure:
                reasons[url] = str(failure)
                strikes[url] += failure.strike
                if failure.strike:
                    partial.clear()
                if failure.final or strikes[url] == STRIKES:
                    waiting.remove(url)
                    continue
                failures = 0 if partial.furthest > furthest else failures + 1
                if failures:
                    waiting.append(waiting.pop(0))  # another server may do better
                    watch.note(f"{remote.name}: {_host(url)} {failure}")
                pause = patience.backoff * 2 ** (failures - 1) if failures else 0.02
                if stop.wait(min(max(pause, failure.wait), LONGEST_PAUSE)):
                    raise Stopped from failure
    finally:
        partial.close()
    raise _unobtainable(remote, reasons, partial)


def _unobtainable(remote: RemoteFile, reasons: dict[str, str], partial: _Partial) -> DataError:
    why = "; ".join(f"{_host(url)} {reason}" for url, reason in reasons.items() if reason)
    return DataError(
        f"cannot get {remote.name}: {why}{f'; {partial.kept}' if partial.size else ''}",
        "the same command tries again; --mirror takes another server, --file a file that you have",
    )


def _host(url: str) -> str:
    return "Google Drive" if url.startswith("gdrive:") else urlsplit(url).netloc


# --- what has come ---------------------------------------------------------------------------------------------------


class _Partial:
    """The bytes of a file that are there by now, what is known of it, and their hash as far as they go.

    `furthest` is how many bytes there have been at most; a server is given up when it gets no further.
    """

    def __init__(self, path: Path, remote: RemoteFile, watch: Watch) -> None:
        self.path, self.remote, self.watch = path, remote, watch
        self.file = path.with_name(f"{path.name}.part")
        self.notes = path.with_name(f"{path.name}.part.json")
        self.size = self.file.stat().st_size if self.file.exists() else 0
        self.known = self._read_notes()
        self.changes = 0
        self._open: BinaryIO | None = None
        self._hashed: digests.Hash | None = None
        surplus = remote.size is not None and self.size > remote.size
        if self.size and (surplus or not self.known or (remote.digest is None and not self.known["validator"])):
            self.clear()  # nothing says that what is there belongs to this file
        self.furthest = self.size

    def _read_notes(self) -> dict[str, Any]:
        """``url``, ``validator`` and ``total`` as a server told them; nothing where they are of another file."""
        try:
            known = json.loads(self.notes.read_text(encoding="utf-8"))
            fits = known["digest"] == self.remote.digest and {"url", "validator", "total"} <= set(known)
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return dict(known) if fits else {}

    @property
    def total(self) -> int | None:
        if self.remote.size is not None:
            return self.remote.size
        total = self.known.get("total")
        return None if total is None else int(total)

    @property
    def kept(self) -> str:
        return f"{describe_bytes(self.size)} of {self.remote.name} came and are kept"

    def is_version_of(self, url: str) -> bool:
        """Whether what is there came from this address, under a name for its version that can be held against a later
        one. Servers that share an address may each have their own; where there is a checksum, it decides then."""
        means_something = self.remote.digest is None or not self.changes
        return self.known.get("url") == url and bool(self.known.get("validator")) and means_something

    def clear(self) -> None:
        """Begin anew."""
        self.close()
        self.file.unlink(missing_ok=True)
        self.size, self.furthest, self.known = 0, 0, {}

    def restart(self) -> None:
        """From the first byte on; but the server is to get further than it did."""
        furthest = self.furthest
        self.clear()
        self.furthest = furthest

    def expect(self, url: str, validator: str | None, total: int | None) -> None:
        """Write down what is coming before its first byte, and make ready for it."""
        known = {"url": url, "validator": validator, "total": total, "digest": self.remote.digest}
        with disk_errors(self.path.parent):
            if known != self.known:
                write_text(self.notes, json.dumps(known))
                self.known = known
            self.watch.begin(self.remote.name, self.total, self.size)
            self._prepare_hash()
            if self._open is None:
                self._open = self.file.open("ab", buffering=0)

    def append(self, chunk: bytes) -> None:
        assert self._open is not None
        left = memoryview(chunk)
        with disk_errors(self.path.parent, self.kept):
            while left:
                written = self._open.write(left)
                if self._hashed is not None:
                    self._hashed.update(left[:written])
                self.size += written
                left = left[written:]
        self.furthest = max(self.furthest, self.size)
        self.watch.at(self.remote.name, self.size)

    def finish(self) -> None:
        """Hold it against its checksum and give it its name. Raises `_Failed` where it is another file."""
        with disk_errors(self.path.parent, self.kept):
            self._prepare_hash()
            if self._hashed is not None and not digests.agrees(self._hashed, self.remote.digest or ""):
                raise _Failed("sends another file: its checksum is not the published one", strike=True)
            with self.file.open("rb") as file:
                os.fsync(file.fileno())
            self.file.replace(self.path)
        self.notes.unlink(missing_ok=True)
        self.watch.end(self.remote.name, whole=True)

    def _prepare_hash(self) -> None:
        """Hash what is there, unless it was hashed as it came."""
        if self.remote.digest is None or self._hashed is not None:
            return
        try:
            self._hashed = digests.begin(self.remote.digest, self.total)
        except ValueError as error:
            raise _Failed(str(error), final=True) from error
        if self.size:
            digests.feed(self._hashed, self.file)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = self._hashed = None


# --- one attempt -----------------------------------------------------------------------------------------------------


def _attempt(url: str, partial: _Partial, patience: Patience, stop: threading.Event) -> None:
    """Take what one request brings. Returns when the file is there to its last byte; raises `_Failed` otherwise."""
    if partial.size and partial.size == partial.total:
        return
    if url.startswith("gdrive:"):
        _by_gdown(url.removeprefix("gdrive:"), partial)
        return
    with _network_errors(patience.timeout), _request(url, partial, patience.timeout) as response:
        total = _begin(url, response, partial)
        while chunk := response.read1(CHUNK):
            if stop.is_set():
                raise Stopped
            if total is not None and partial.size + len(chunk) > total:
                raise _Failed(f"sends more than the {total:,} bytes that the file has", strike=True)
            partial.append(chunk)
        if total is not None and partial.size < total:
            raise _Failed(f"closed the connection after {describe_bytes(partial.size)} of {describe_bytes(total)}")


def _request(url: str, partial: _Partial, timeout: float) -> Any:
    """Ask for the file, or for what is still missing of it."""
    headers = {"User-Agent": f"infomax/{__version__}", "Accept-Encoding": "identity"}
    if partial.size and partial.remote.digest is None and not partial.is_version_of(url):
        partial.restart()  # nothing would tell whether the rest is of the same file
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
        if partial.is_version_of(url):
            headers["If-Range"] = partial.known["validator"]
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)


def _begin(url: str, response: Any, partial: _Partial) -> int | None:
    """Judge an answer before its first byte is kept and before any is thrown away; return how long the file is, if
    anybody knows."""
    start, total = (0, response.length) if response.status == 200 else _content_range(response)
    size, kind = partial.remote.size, response.headers.get_content_type()
    if size is not None and total is not None and total != size:
        raise _Failed(f"has {total:,} bytes of {kind} where the file has {size:,}")
    if kind == "text/html":
        raise _Failed("sends a web page in place of the file")
    if urlsplit(url).scheme == "https" != urlsplit(response.url).scheme and partial.remote.digest is None:
        raise _Failed("leads to an address without https, and nothing could tell a wrong file", final=True)
    validator = _validator(response.headers)
    if partial.is_version_of(url) and partial.size and validator != partial.known["validator"]:
        partial.clear()
        partial.changes += 1
        if partial.changes > STRIKES or start:
            raise _Failed("keeps changing the file", final=partial.changes > STRIKES)
    elif start == 0 and partial.size:
        partial.restart()  # it sends files only as a whole
    elif start != partial.size:
        raise _Failed("sends another part of the file than was asked for", strike=True)
    partial.expect(url, validator, total)
    return size if size is not None else total


def _validator(headers: email.message.Message) -> str | None:
    """What the server calls this version of the file: a strong ETag, else the time of its last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _content_range(response: Any) -> tuple[int, int | None]:
    """The first byte of a part, and the length of the whole file."""
    text = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    if response.status != 206 or not found:
        raise _Failed(f"answers HTTP {response.status} {text}".rstrip())
    return int(found[1]), None if found[2] == "*" else int(found[2])


@contextlib.contextmanager
def _network_errors(timeout: float) -> Iterator[None]:
    """Whatever a network does, as `_Failed`. The disk's errors do not come here: they are none of the server's."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _Failed("says that there is no more of the file", strike=True) from error
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        final = error.code not in _FOR_LATER  # the address may be wrong: it is shown
        raise _Failed(
            f"answers HTTP {error.code} {error.reason}{f' to {urlsplit(error.url).path}' if final else ''}",
            final=final,
            wait=float(wait) if wait.isdecimal() else 0.0,
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise _Failed(f"has a certificate that is not trusted: {reason.verify_message}", final=True) from error
        if isinstance(reason, TimeoutError):
            raise _Failed(f"has been silent for {timeout:g} s") from error
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else describe_error(error)
        raise _Failed(f"cannot be reached, or not any more: {words}") from error


def _by_gdown(file: str, partial: _Partial) -> None:
    """A file on Google Drive, which serves large ones through pages that gdown knows."""
    try:
        import gdown
    except ImportError as error:
        raise _Failed("needs gdown: pip install gdown", final=True) from error
    partial.restart()
    partial.watch.begin(partial.remote.name, None)
    try:
        gdown.download(id=file, output=str(partial.file), quiet=True)
        partial.size = partial.file.stat().st_size
    except Exception as error:  # it raises whatever its libraries do
        raise _Failed(f"cannot be had by gdown: {describe_error(error)}", final=True) from error
