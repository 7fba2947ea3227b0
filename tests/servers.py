"""A loopback HTTP server that misbehaves as it is told, and remembers what it was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How one request is answered; by itself, as an honest server does.

    `drop` closes the connection after so many bytes of the body; `length` is told in place of the true Content-Length
    and `total` in place of the true length of the file; `content` is sent in place of the file. `pause` seconds pass
    before each `piece` bytes. `etag` "" sends none.
    """

    status: int = 200
    drop: int | None = None
    length: int | None = None
    total: int | None = None
    content: bytes | None = None
    etag: str | None = None
    ranges: bool = True
    splices: bool = False
    chunked: bool = False
    pause: float = 0.0
    piece: int = 1 << 16
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """A request: for what, from which byte on, and how many bytes were sent."""

    path: str
    first: int
    sent: int = 0
    if_range: str | None = None


class Server:
    """Serves `files` at `url`. `answers` are used up one a request, the last one for ever, where there is any."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self.choose: Callable[[str], Answer] | None = None
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def firsts(self, path: str) -> list[int]:
        """From which byte on a file was asked for, request by request."""
        return [asked.first for asked in self.asked if asked.path == path]

    def next_answer(self, path: str) -> Answer:
        with self._lock:
            if self.choose is not None:
                return self.choose(path)
            waiting = self.answers.get(path, [])
            return waiting.pop(0) if len(waiting) > 1 else waiting[0] if waiting else Answer()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:  # the name that http.server looks for
            self.close_connection = True
            with contextlib.suppress(ConnectionError):  # whoever asked was killed, or has seen enough
                _answer(self, server)

    return Handler


def _answer(handler: BaseHTTPRequestHandler, server: Server) -> None:
    path = handler.path.lstrip("/")
    answer = server.next_answer(path)
    asked = Asked(path, 0, if_range=handler.headers.get("If-Range"))
    if found := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")):
        asked.first = int(found[1])
    server.asked.append(asked)
    whole = server.files.get(path) if answer.content is None else answer.content
    if answer.status != 200 or whole is None:
        handler.send_response(answer.status if whole is not None else 404)
        for name, value in {**answer.headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        return
    etag = etag_of(whole) if answer.etag is None else answer.etag
    unchanged = answer.splices or asked.if_range in (None, etag)
    partly = asked.first > 0 and answer.ranges and unchanged
    if partly and asked.first >= len(whole):
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    _send(handler, answer, asked, whole[asked.first :] if partly else whole, len(whole), etag, partly=partly)


def _send(
    handler: BaseHTTPRequestHandler, answer: Answer, asked: Asked, body: bytes, whole: int, etag: str, *, partly: bool
) -> None:
    handler.send_response(206 if partly else 200)
    total = whole if answer.total is None else answer.total
    headers = {"Content-Type": "application/octet-stream", "ETag": etag}
    headers["Content-Length"] = str(len(body) if answer.length is None else answer.length)
    if partly:
        headers["Content-Range"] = f"bytes {asked.first}-{whole - 1}/{total}"
    if answer.chunked:
        headers["Transfer-Encoding"] = "chunked"
        del headers["Content-Length"]
    for name, value in {**headers, **answer.headers}.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    end = len(body) if answer.drop is None else min(answer.drop, len(body))
    for start in range(0, end, answer.piece):
        time.sleep(answer.pause)
        piece = body[start : min(start + answer.piece, end)]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
        asked.sent += len(piece)
    if answer.chunked and end == len(body):
        handler.wfile.write(b"0\r\n\r\n")
