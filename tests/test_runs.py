"""Run folders: made, found and locked."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import tiny
from infomax_cli.errors import CheckpointError, UsageError
from infomax_cli.runs import Run, all_runs, find_run, new_run


def make(folder: Path, name: str, *, recipe: str = "tiny", age: int = 0) -> Run:
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(f"name: {recipe}\n{tiny.RECIPE}")
    os.utime(run.recipe_file, ns=(0, 10**9 * (1000 - age)))
    return run


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-120000")
    names = [new_run(tmp_path / "runs", "gim").name for _ in range(3)]
    assert names == ["gim-20260101-120000", "gim-20260101-120000-2", "gim-20260101-120000-3"]


def test_a_run_is_named_by_recipe_and_time(tmp_path: Path) -> None:
    assert re.fullmatch(r"gim-\d{8}-\d{6}", new_run(tmp_path, "gim").name)


@pytest.mark.parametrize("below", ["file", "file/deeper", "file/deeper/still"])
def test_a_folder_that_cannot_be_made_is_told(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot make the run folder .*file.*: Not a directory") as caught:
        new_run(tmp_path / below, "gim")
    assert "--runs" in (caught.value.hint or "")
    with pytest.raises(CheckpointError, match="File name too long"):
        new_run(tmp_path, "x" * 300)


def test_the_newest_run_is_found_and_that_of_a_recipe(tmp_path: Path) -> None:
    old, new, other = make(tmp_path, "a", age=2), make(tmp_path, "b", age=1), make(tmp_path, "c", recipe="other")
    assert all_runs(tmp_path) == [old, new, other]
    assert find_run(None, tmp_path) == other
    assert find_run("tiny", tmp_path) == new


def test_a_recipe_means_its_newest_run_and_a_folder_comes_before_it(tmp_path: Path) -> None:
    new = make(tmp_path / "runs", "b", age=1)
    make(tmp_path / "runs", "a", age=2)
    renamed = tiny.write_recipe(tmp_path, "name: tiny", name="other")  # its file is called otherwise
    for given in ("tiny", str(renamed)):
        assert find_run(given, tmp_path / "runs") == new
    folder = make(tmp_path / "runs", "tiny", recipe="other", age=3)
    assert find_run("tiny", tmp_path / "runs") == folder


def test_a_run_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs", "a")
    monkeypatch.chdir(tmp_path)
    for given in ("a", "runs/a", "runs/a/", str(run.path)):
        assert find_run(given, Path("runs")).path.resolve() == run.path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_run("~/runs/a", Path("none")).path == run.path


def test_what_is_no_run_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_run("a", tmp_path / "none")
    assert caught.value.message == "there is no run or recipe 'a'"
    assert caught.value.hint == f"{tmp_path}/none holds no run"
    with pytest.raises(UsageError, match=r"holds no run$") as caught:
        find_run(None, tmp_path)
    make(tmp_path, "b")
    with pytest.raises(UsageError) as caught:
        find_run("a", tmp_path)
    assert caught.value.hint == f"in {tmp_path} there are: b"
    with pytest.raises(UsageError, match=r"holds no run of gim$") as caught:
        find_run("gim", tmp_path)
    assert caught.value.hint == "train one first, for example: infomax train gim"


def test_what_is_broken_or_no_run_hides_no_other(tmp_path: Path) -> None:
    good = make(tmp_path, "a", age=5)
    broken = make(tmp_path, "b")
    broken.recipe_file.write_text("{not yaml")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert find_run("tiny", tmp_path) == good
    assert all_runs(tmp_path / "file") == []


def test_a_run_s_recipe_is_read_back(tmp_path: Path) -> None:
    assert make(tmp_path, "a").recipe().train.steps == 8


def test_leftovers_of_a_killed_process_are_taken_away_and_nothing_else(tmp_path: Path) -> None:
    run = make(tmp_path, "a")
    run.checkpoints.mkdir()
    kept = [run.last, run.encoder_file, run.path / ".lock", run.path / "notes.tmp"]
    left = [run.checkpoints / ".last.pt.ab.tmp", run.path / ".encoder.safetensors.cd.tmp"]
    for path in (*kept, *left):
        path.write_text("")
    run.remove_leftovers()
    assert [path.exists() for path in kept] == [True] * 4
    assert [path.exists() for path in left] == [False] * 2


# --- the lock --------------------------------------------------------------------------------------------------------

SLEEP = """
import os, signal, time
from infomax_cli.core.trainer import Trainer
def wait(self, batch, part):
    {fork}
    open("training", "w").close()
    time.sleep(60)
Trainer.train_on = wait
"""


def test_two_processes_never_train_one_run(here: Path, forked: Any) -> None:
    first = forked("train", str(tiny.write_recipe(here)), before=SLEEP.format(fork=""))
    first.wait_for("training")
    second = forked("train", "--resume").wait()
    (run,) = (here / "runs").iterdir()
    assert second.code == 1
    assert second.err == (
        f"error: another process is training {run.relative_to(here)}\n"
        "hint: wait for it, or stop it with Ctrl-C or SIGTERM\n"
    )
    first.end()
    assert forked("train", "--resume").wait().code == 0


def test_a_worker_that_outlives_a_killed_run_does_not_hold_it(here: Path, forked: Any) -> None:
    first = forked("train", str(tiny.write_recipe(here)), before=SLEEP.format(fork="os.fork()"))
    first.wait_for("training")
    first.signal(9)
    assert first.wait().code == -9
    assert forked("train", "--resume").wait().code == 0


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    run = make(tmp_path, "a")
    (run.path / ".lock").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write in .*a: Is a directory"), run.lock():
        pass


def test_where_there_are_no_locks_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with make(tmp_path, "a").lock():
        pass
