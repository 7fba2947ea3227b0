"""Fixtures that several tests share: the command line in a process of its own, and foreign plugin distributions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

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
