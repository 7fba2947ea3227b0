"""Running a function in a fresh interpreter, with a time limit.

What is asked of a stranger's module is asked there: it may hang, call ``sys.exit``, or take the interpreter down with
it, and costs nothing but its own answer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Key = TypeVar("Key")

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from infomax_cli import isolation; isolation.child()"


@dataclass(frozen=True)
class Call:
    """A function, as ``module:name``, and its arguments. What it returns must survive JSON."""

    function: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the function returned; or None, and why there is no answer."""

    value: Any
    failure: str | None
    seconds: float


def run_all(calls: Mapping[Key, Call], *, limit: float, at_once: int = 2) -> Iterator[tuple[Key, Answer]]:
    """Run each call in an interpreter of its own, at most `limit` seconds each, and yield answers as they come.

    When the caller stops listening, or is interrupted, what still runs is ended.
    """
    waiting, running = list(calls.items()), dict[Key, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                key, call = waiting.pop(0)
                running[key] = _Child(call, limit)
            for key, child in list(running.items()):
                if (answer := child.poll()) is not None:
                    del running[key]
                    yield key, answer
            time.sleep(0.02)
    finally:
        for child in running.values():
            child.end()


def run(call: Call, *, limit: float) -> Answer:
    """Run one call as `run_all` does."""
    ((_, answer),) = run_all({call: call}, limit=limit)
    return answer


class _Child:
    """A call under way."""

    def __init__(self, call: Call, limit: float) -> None:
        self.limit = limit
        self.started = time.monotonic()
        self.folder = tempfile.TemporaryDirectory(prefix="infomax-")
        self.result, self.log = Path(self.folder.name, "result.json"), Path(self.folder.name, "log")
        command = [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path), str(self.result), call.function]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *call.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def poll(self) -> Answer | None:
        """The answer, if there is one by now."""
        code, seconds = self.process.poll(), time.monotonic() - self.started
        if code is None and seconds < self.limit:
            return None
        late = Answer(None, f"no answer within {self.limit:g} s", seconds)
        answer = late if code is None else self._read(code, seconds)
        self.end()
        return answer

    def _read(self, code: int, seconds: float) -> Answer:
        try:
            return Answer(json.loads(self.result.read_text(encoding="utf-8")), None, seconds)
        except (OSError, ValueError):
            return Answer(None, _describe_end(code, self.log), seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # and what it has started itself
            self.process.wait()
        self.folder.cleanup()


def _describe_end(code: int, log: Path) -> str:
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == 1 and lines:
        return lines[-1]  # a traceback ends in the error
    return f"the interpreter ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def child() -> None:
    """The other side: ``argv`` holds sys.path, the file for the result, the function and its arguments."""
    _, _, result, function, *arguments = sys.argv
    module, _, name = function.partition(":")
    value = getattr(importlib.import_module(module), name)(*arguments)
    Path(result).write_text(json.dumps(value), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # whatever the module has left behind, threads or exit handlers, does not count
