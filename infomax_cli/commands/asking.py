"""How the verbs that look at a run are asked: which run, with what changes to its data, and which depths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infomax_cli.errors import UsageError

if TYPE_CHECKING:
    from infomax_cli.runs import Run

RUN = "A run: its folder, its name, its recipe's name for the newest of that, or nothing for the newest of all."


def find_run_and_changes(run: str | None, changes: Sequence[str] | None, runs: Path | None) -> tuple[Run, list[str]]:
    """``[RUN] [KEY=VALUE ...]``: without a run, the newest, and then a change may stand in its place."""
    from infomax_cli.paths import runs_root
    from infomax_cli.runs import find_run

    given = list(changes or ())
    if run is not None and "=" in run and not Path(run).exists():
        given, run = [run, *given], None
    return find_run(run, runs or runs_root()), given


def depths_of(text: str, stages: int) -> list[int]:
    """``all``, ``last`` or a number, of an encoder of so many stages."""
    return list(range(stages)) if text == "all" else [_depth(text, stages, ("all", "last"))]


def depth_of(text: str, stages: int) -> int:
    """``last`` or a number, where one depth alone is asked for."""
    return _depth(text, stages, ("last",))


def _depth(text: str, stages: int, words: Sequence[str]) -> int:
    if text == "last":
        return stages - 1
    if not text.removeprefix("-").isdecimal():
        raise UsageError(f"--depth {text}: not a depth", f"use {', '.join(words)} or a number from 0 on")
    if not 0 <= int(text) < stages:
        raise UsageError(f"--depth {text}: the encoder has depths 0 to {stages - 1}", f"or --depth {words[0]}")
    return int(text)
