"""Being asked to stop: Ctrl-C and SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yields whether a stop has been asked for: within it, Ctrl-C and SIGTERM only ask. A second Ctrl-C insists."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's business
        yield lambda: asked
        return
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_stopping_to_the_parent(worker: int) -> None:
    """For a loader's worker, which has nothing to save: a stop may be sent to the whole process group, and a worker
    that died of it would take the parent with it. When the parent is gone the worker ends by itself."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
