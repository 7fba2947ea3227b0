"""Running the command line in processes that can be killed, without waiting for torch each time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = """
import atexit, gc, importlib, json, os, pkgutil, signal, sys, traceback
import torch, soundfile, scipy.signal, tensorboard, rich.live, pydantic, yaml, entrypoints, torchaudio, PIL.Image
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True)  # imports a thousand modules
import infomax_cli.core, infomax_cli.display
for module in pkgutil.iter_modules(infomax_cli.core.__path__):
    importlib.import_module(f"infomax_cli.core.{module.name}")
from infomax_cli import main, registry
for plugin in registry.inventory().plugins:
    if plugin.builtin:
        registry.load_plugin(plugin)

def child(job):
    os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    places = [(0, job["tty"] or os.devnull), (1, job["tty"] or job["out"]), (2, job["tty"] or job["err"])]
    for number, path in places:
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["infomax", *job["arguments"]]
    exec(job["before"], {"__name__": "before"})
    code = 0
    try:
        main.main()
    except SystemExit as end:
        code = end.code or 0
    # an interpreter's end, but for taking down a thousand modules one by one
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "poll" in job:
        pid, status = os.waitpid(job["poll"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if answer == 0:
            try:
                child(job)
            finally:
                traceback.print_exc()
                os._exit(99)
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """How a command line ended; `code` is negative where a signal killed it."""

    code: int
    out: str
    err: str


class ForkServer:
    """A process that has imported everything, and forks a child for each command line."""

    def __init__(self) -> None:
        # one thread: a pool of threads does not survive a fork
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self._answer() == "ready\n"

    def start(self, arguments: Sequence[str], before: str, tty: str | None, output: Path) -> Child:
        out, err = output.with_suffix(".out"), output.with_suffix(".err")
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        env["PYTHONPATH"] = str(Path(__file__).parent)
        job = {"arguments": arguments, "before": before, "tty": tty, "out": str(out), "err": str(err)}
        return Child(self, self.ask({**job, "env": env, "cwd": str(Path.cwd())}), out, err)

    def ask(self, job: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Child:
    """A command line under way, the leader of its own process group."""

    server: ForkServer
    pid: int
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})
        return self.code

    def wait(self, limit: float = 60) -> Outcome:
        end = time.monotonic() + limit
        while self.poll() is None:
            assert time.monotonic() < end, f"still running after {limit} s: {self._read(self.err)}"
            time.sleep(0.01)
        assert self.code is not None
        return Outcome(self.code, self._read(self.out), self._read(self.err))

    def wait_for(self, pattern: str, limit: float = 60) -> None:
        """Until there is a file of such a name below the working folder."""
        end = time.monotonic() + limit
        while not any(Path.cwd().glob(pattern)):
            assert self.poll() is None, f"ended with {self.code}: {self._read(self.err)}"
            assert time.monotonic() < end, f"no {pattern} after {limit} s"
            time.sleep(0.005)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                (os.killpg if group else os.kill)(self.pid, number)

    def end(self) -> None:
        """Kill what still runs, the loader's workers with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text(errors="replace") if path.exists() else ""
