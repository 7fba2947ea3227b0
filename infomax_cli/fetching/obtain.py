"""From a dataset's name to its folders on disk: what is missing is fetched, unpacked aside, and put in its place."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from infomax_cli.errors import DataError, Interrupted
from infomax_cli.fetching import digests
from infomax_cli.fetching.archives import Limits, Unpacked, unpack
from infomax_cli.fetching.catalogue import RemoteFile, Subset
from infomax_cli.fetching.disk import DiskFull, disk_errors
from infomax_cli.fetching.http import fetch
from infomax_cli.fetching.plan import Options, Task, describe_need, places, plan, require_room
from infomax_cli.fetching.store import Store, put_in_place, write_marker
from infomax_cli.fetching.watch import Watch, counting
from infomax_cli.wording import describe_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")

_GRACE = 2.0  # seconds that a thread has to end when nobody wants what it fetches any more


def obtain(
    dataset: str, subsets: Mapping[str, Subset], root: Path, options: Options | None = None, watch: Watch | None = None
) -> list[Task]:
    """See to it that subsets of a dataset are whole under `root`; says what was done for each.

    Raises `DataError`, and `Interrupted` on Ctrl-C; the next call goes on from what came. `watch` is told how far it
    is; without one it is shown on stderr.
    """
    store, options = Store(root.expanduser().absolute(), dataset), options or Options()
    with contextlib.ExitStack() as stack:
        watch = watch or stack.enter_context(_display())
        stack.enter_context(store.lock())
        try:
            tasks = plan(store, subsets, options, watch)
            require_room(tasks, store)
            if any(task.files for task in tasks):
                watch.note(f"{dataset}: {describe_need(tasks, store)}")
            _carry_out(tasks, store, options, watch)
        except KeyboardInterrupt as stop:
            came = store.came()
            kept = f"{describe_bytes(came)} came and are kept in {store.downloads}" if came else "nothing has changed"
            raise Interrupted(f"{dataset}: {kept}", "the same command goes on") from stop
    return tasks


def _display() -> contextlib.AbstractContextManager[Watch]:
    from infomax_cli.console import messages
    from infomax_cli.progress import TransferDisplay

    return TransferDisplay(messages())


# --- fetching, in threads --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Had:
    """A file that is here, whole as far as can be told: what it is called, and where it lies."""

    name: str
    path: Path


def _carry_out(tasks: Sequence[Task], store: Store, options: Options, watch: Watch) -> None:
    """Fetch in threads; unpack here what has come. One subset's failure does not keep the others from coming, but a
    full disk does."""
    _clear_leftovers(tasks, store, options)
    errands = [(task, file) for task in tasks for file in task.files]
    had: dict[str, list[_Had]] = {task.name: [] for task in tasks}
    failures: list[DataError] = []

    def bring(errand: tuple[Task, RemoteFile], stop: threading.Event) -> _Had:
        return _bring(errand[1], store, options, watch, stop)

    with contextlib.closing(_in_threads(bring, errands, options.jobs)) as results:
        for (task, _), result in results:
            try:
                if isinstance(result, BaseException):
                    raise result
                had[task.name].append(result)
                if len(had[task.name]) == len(task.files):
                    _install(task, had[task.name], store, options, watch)
            except DiskFull:
                raise
            except DataError as error:
                failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        first = failures[0]
        raise DataError(f"{len(failures)} of {len(errands)} files failed; the first: {first.message}", first.hint)


def _in_threads(
    work: Callable[[Item, threading.Event], Result], items: Sequence[Item], jobs: int
) -> Generator[tuple[Item, Result | BaseException], None, None]:
    """What becomes of each item, as it comes. When nobody listens any more, what is under way is told to stop; threads
    are daemons, so that a server that keeps silent then keeps nobody waiting."""
    waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Item, Result | BaseException]] = queue.SimpleQueue()
    stop = threading.Event()

    def labour() -> None:
        while (item := waiting.get()) is not None and not stop.is_set():
            try:
                done.put((item, work(item, stop)))
            except BaseException as error:
                done.put((item, error))

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(min(jobs, len(items)))]
    for item in (*items, *(None for _ in threads)):
        waiting.put(item)
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            yield done.get()
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(_GRACE)


def _bring(remote: RemoteFile, store: Store, options: Options, watch: Watch, stop: threading.Event) -> _Had:
    """A file that is here already and is the published one; else from whatever server has it, or has what may take its
    place."""
    for candidate in remote.alternatives():
        for path in places(store, candidate, options):
            if candidate.digest is None or _is_published(candidate, path, watch):
                return _Had(candidate.name, path)
    given = {path.name for path in options.files}
    if wrong := [candidate.name for candidate in remote.alternatives() if candidate.name in given]:
        raise DataError(f"--file {wrong[0]}: not the published file, or damaged", "leave it out to download the file")
    failures = []
    for candidate in remote.alternatives():
        here = store.downloads / candidate.name
        if options.mirror:
            candidate = replace(candidate, urls=(f"{options.mirror.rstrip('/')}/{candidate.name}",))
        try:
            fetch(candidate, here, patience=options.patience, watch=watch, stop=stop)
            return _Had(candidate.name, here)
        except DiskFull:
            raise
        except DataError as error:
            watch.end(candidate.name, whole=False)
            failures.append(error)
    raise DataError("; ".join(dict.fromkeys(error.message for error in failures)), failures[0].hint)


def _is_published(remote: RemoteFile, path: Path, watch: Watch) -> bool:
    with counting(watch, f"checking {remote.name}", path.stat().st_size) as advance:
        return digests.has_digest(path, remote.digest or "", advance)


# --- unpacking -------------------------------------------------------------------------------------------------------


def _install(task: Task, had: Sequence[_Had], store: Store, options: Options, watch: Watch) -> None:
    """Unpack aside, mark as whole, put in place; then see to the archives."""
    making, subset = store.making(task.subset), task.subset
    shutil.rmtree(making, ignore_errors=True)
    try:
        files: Unpacked = {}
        for one in had:
            files |= _unpack(one, making, task, watch)
        inside = PurePosixPath(subset.inside)
        own = {str(PurePosixPath(path).relative_to(inside)): stamp for path, stamp in files.items()
               if PurePosixPath(path).is_relative_to(inside)}  # fmt: skip
        if not own:
            raise DataError(f"{had[0].name} holds no {subset.inside or 'file'}", "tell whoever packed it")
        if not task.mends:
            if subset.check is not None:
                subset.check(making / inside)
            write_marker(making / inside, store.dataset, task.name, own)
            _put_beside(making, files, subset, task.folder)
        put_in_place(making / inside, task.folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    _clear_away(had, store, options)


def _unpack(one: _Had, making: Path, task: Task, watch: Watch) -> Unpacked:
    subset, packed = task.subset, one.path.stat().st_size
    only = {str(PurePosixPath(subset.inside) / path) for path in task.condition.damaged} if task.mends else None
    most = 2 * subset.unpacked + (64 << 20) if subset.unpacked else max(1 << 30, 20 * packed)
    total = subset.unpacked if len(subset.files) == 1 and not task.mends else None
    with counting(watch, f"unpacking {one.name}", total) as advance:
        return unpack(one.path, making, Limits(bytes=most), name=one.name, only=only, advance=advance)


def _put_beside(making: Path, files: Unpacked, subset: Subset, folder: Path) -> None:
    """Files that lie beside the folder within the archive come to lie beside it here, where there are none yet."""
    for path in map(PurePosixPath, files):
        target = folder.parent / path.name
        if subset.inside and path.parent == PurePosixPath(subset.inside).parent and not target.exists():
            with disk_errors(folder.parent):
                (making / path).replace(target)


def _clear_leftovers(tasks: Sequence[Task], store: Store, options: Options) -> None:
    """What a process left behind that was killed at its very end."""
    for task in tasks:
        if task.condition.state == "whole":
            shutil.rmtree(store.making(task.subset), ignore_errors=True)
            names = [candidate.name for file in task.subset.files for candidate in file.alternatives()]
            _clear_away([_Had(name, store.downloads / name) for name in names], store, options)


def _clear_away(had: Sequence[_Had], store: Store, options: Options) -> None:
    """What infomax downloaded it keeps elsewhere or takes away; what is anybody else's it leaves alone."""
    for one in had:
        if one.path.parent != store.downloads or not one.path.exists():
            continue
        with disk_errors(store.root):
            if options.keep_archive:
                store.archives.mkdir(parents=True, exist_ok=True)
                one.path.replace(store.archives / one.name)
            else:
                one.path.unlink()
