"""Where data and runs are. The cache is `infomax_cli.core.files.cache_root`."""

from __future__ import annotations

import os
from pathlib import Path

from infomax_cli.errors import UsageError


def data_root() -> Path:
    """Where datasets are put and looked for: ``$INFOMAX_DATA``, else ``infomax`` in the user's data folder."""
    if given := os.environ.get("INFOMAX_DATA"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "infomax"


def chosen_root(given: Path | None) -> Path:
    """The data root of a command: what is `given`, else `data_root`; absolute. It need not exist yet.

    Raises `UsageError` where it, or what should be a folder above it, is something else.
    """
    root = (given or data_root()).expanduser().absolute()
    for path in (root, *root.parents):
        if os.path.lexists(path) and not path.is_dir():
            what = "a file" if path.exists() else "a link that leads nowhere"
            raise UsageError(f"{path} is {what}, not a folder", "choose a folder with --root or INFOMAX_DATA")
    return root


def root_option(root: Path) -> str:
    """What a command needs to find data under `root`: `` --root ROOT``, or nothing where it looks there anyway."""
    root = root.expanduser().absolute()
    return "" if root == data_root().absolute() else f" --root {root}"


def runs_root() -> Path:
    """Where runs are written and looked for: ``$INFOMAX_RUNS``, else ``runs`` in the current folder."""
    return Path(os.environ.get("INFOMAX_RUNS") or "runs").expanduser()


def nearest_existing(path: Path) -> Path:
    """`path`, or the closest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
