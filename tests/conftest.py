"""Fixtures that several tests share: the command line in a process of its own, and foreign plugin distributions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from processes import Child, ForkServer, Outcome

Infomax = Callable[..., Outcome]
Forked = Callable[..., Child]

THIRDPARTY = Path(__file__).parent / "thirdparty"


class Cli(Protocol):
    """``run_cli("plugins", "--json", sites=[...], env={...})``: stdout, stderr and the exit code of `infomax`."""

    def __call__(
        self,
        *arguments: str,
        sites: list[Path] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_cli(tmp_path: Path) -> Cli:
    """The command line as a user meets it, with data, cache and runs under `tmp_path`.

    `sites` are folders of installed distributions, put on the path as PYTHONPATH does.
    """
    home = tmp_path / "home"

    def run(
        *arguments: str, sites: list[Path] | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("INFOMAX_", "PYTHONPATH"))}
        own = {"INFOMAX_DATA": str(home / "data"), "INFOMAX_CACHE": str(home / "cache")}
        path = {"PYTHONPATH": os.pathsep.join(map(str, sites))} if sites else {}
        return subprocess.run(
            [sys.executable, "-m", "infomax_cli", *arguments],
            env={**clean, **own, **path, **(env or {})},
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=240,
        )

    return run


@pytest.fixture(scope="session")
def foreign_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `infomax-echo` is installed: encoder, loss, dataset and recipe of a stranger."""
    return _install("infomax-echo", tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="session")
def broken_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `infomax-broken` is installed: plugins that are broken, each in its own way."""
    return _install("infomax-broken", tmp_path_factory.mktemp("broken"))


def _install(distribution: str, folder: Path) -> Path:
    """With the real pip, offline; it takes a second."""
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *offline,
        "--target",
        str(folder),
        str(THIRDPARTY / distribution),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that outlives a test, so that a corpus is synthesized once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`tmp_path` as working folder, with data and runs in it, and the shared cache.

    One thread computes, as in the processes of `forked`: with another number sums differ in their last bits.
    """
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INFOMAX_RUNS", raising=False)
    monkeypatch.delenv("INFOMAX_DEBUG", raising=False)
    monkeypatch.setenv("INFOMAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INFOMAX_CACHE", str(shared_cache))
    monkeypatch.setenv("COLUMNS", "80")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def infomax(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Infomax:
    """The command line within this process."""
    from infomax_cli import main

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["infomax", *arguments])
        code: object = 0
        try:
            main.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """A process that has imported everything: a command line in a process of its own, without waiting for torch."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def forked(here: Path, fork_server: ForkServer) -> Iterator[Forked]:
    """``forked("train", ..., before="code to run first")``: the command line in a process of its own, under way."""
    children: list[Child] = []

    def start(*arguments: str, before: str = "", tty: str | None = None) -> Child:
        children.append(fork_server.start(arguments, before, tty, here / f"forked-{len(children)}"))
        return children[-1]

    yield start
    for child in children:
        child.end()
