"""Whatever runs in an interpreter of its own costs nothing but its own answer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from infomax_cli import isolation
from infomax_cli.isolation import Call

CODE = """
import json, os, signal, subprocess, sys, threading, time
def answer(*words): print("noise on stdout"); return list(words)
def fails(): raise ValueError("no good")
def quits(): sys.exit(3)
def quits_hard(): os._exit(0)
def crashes(): os.kill(os.getpid(), signal.SIGSEGV)
def hangs(): time.sleep(600)
def leaves_a_thread(): threading.Thread(target=time.sleep, args=(600,)).start(); return "done"
def hangs_with_a_child(marker):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(marker, "w").write(str(child.pid))
    time.sleep(600)
"""


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "subject.py").write_text(CODE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return "subject"


def test_arguments_go_in_and_the_answer_comes_out(subject: str) -> None:
    assert isolation.run(Call(f"{subject}:answer", ("a b", "ü")), limit=60).value == ["a b", "ü"]


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("fails", "ValueError: no good"),
        ("quits", "the interpreter ended with exit code 3"),
        ("quits_hard", "the interpreter ended with exit code 0"),
        ("crashes", "killed by SIGSEGV"),
    ],
)
def test_however_it_ends_the_reason_is_told(subject: str, function: str, failure: str) -> None:
    answer = isolation.run(Call(f"{subject}:{function}"), limit=60)
    assert (answer.value, answer.failure) == (None, failure)


def test_one_that_hangs_is_ended_and_the_others_answer(subject: str) -> None:
    calls = {"hangs": Call(f"{subject}:hangs"), **{i: Call(f"{subject}:answer", (str(i),)) for i in range(3)}}
    answers = dict(isolation.run_all(calls, limit=8.0))
    assert answers.pop("hangs").failure == "no answer within 8 s"
    assert {key: answer.value for key, answer in answers.items()} == {0: ["0"], 1: ["1"], 2: ["2"]}


def test_a_thread_left_behind_does_not_hold_the_answer_back(subject: str) -> None:
    assert isolation.run(Call(f"{subject}:leaves_a_thread"), limit=60).value == "done"


def test_when_nobody_listens_any_more_what_runs_is_ended_with_all_its_children(subject: str, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    calls = {"stays": Call(f"{subject}:hangs_with_a_child", (str(marker),)), "quick": Call(f"{subject}:answer")}
    running = isolation.run_all(calls, limit=100)
    next(running)
    deadline = time.monotonic() + 30
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = Path("/proc", marker.read_text(), "stat")
    if not grandchild.exists():
        pytest.skip("there is no /proc here")
    running.close()  # type: ignore[attr-defined]
    while _alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(grandchild)


def _alive(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie is dead, and waits for init
    except OSError:
        return False
