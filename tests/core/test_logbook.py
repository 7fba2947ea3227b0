"""Means of what was measured, and the files they end in."""

from __future__ import annotations

import json
import math
import resource
import threading
from pathlib import Path

import pytest
import torch

import tiny
from infomax_cli.core.logbook import Logbook, Meter, Reading
from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run, new_run

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path, "tiny")


def test_a_meter_reads_weighted_means_and_begins_anew() -> None:
    meter = Meter()
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(4.0)}, weight=3)
    meter.add({"a": torch.tensor(5.0)}, weight=1)
    assert meter.read() == Reading({"a": 2.0, "b": 4.0})
    assert meter.read() == Reading({})


def test_a_meter_holds_no_graph() -> None:
    x = torch.ones((), requires_grad=True)
    meter = Meter()
    meter.add({"a": x * 2})
    assert not any(total.requires_grad for total in meter._sums.values())


def test_a_meter_goes_on_exactly_after_being_restored() -> None:
    whole, broken = Meter(), Meter()
    for number in range(7):
        value = {"a": torch.rand((), generator=torch.Generator().manual_seed(number))}
        whole.add(value, weight=0.1)
        broken.add(value, weight=0.1)
        if number == 3:
            state = json.loads(json.dumps(broken.state()))
            broken = Meter()
            broken.restore(state, CPU)
    assert whole.read() == broken.read()


def test_metrics_are_lines_of_strict_json_whatever_the_values(run: Run) -> None:
    logbook = Logbook(run, 0, {})
    logbook.write(2, Reading({"train/block0/x": 0.1, "train/block0/y": math.nan, "train/block0/z": math.inf}))
    assert (
        run.metrics.read_text()
        == '{"step": 2, "train/block0/x": 0.1, "train/block0/y": null, "train/block0/z": null}\n'
    )
    logbook.close()


def test_what_was_written_can_be_read_at_once(run: Run) -> None:
    """By someone who follows the file, and by a TensorBoard that runs beside."""
    logbook = Logbook(run, 0, {})
    logbook.write(2, Reading({"train/block0/x": 0.5}))
    assert tiny.lines(run) == [{"step": 2, "train/block0/x": 0.5}]
    assert tiny.scalars(run) == {"train/block0/x": [(2, 0.5)]}
    logbook.close()


def test_tensorboard_is_written_without_a_thread(run: Run) -> None:
    before = threading.active_count()
    logbook = Logbook(run, 0, {})
    assert threading.active_count() == before
    logbook.close()


def test_a_tensorboard_that_had_read_on_forgets_what_was_cut(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logbook = Logbook(run, 0, {})
    logbook.write(1, Reading({"train/block0/x": 1.0}))
    marks = logbook.sync()
    logbook.write(2, Reading({"train/block0/x": 2.0}))
    logbook.close()
    reader = EventAccumulator(str(run.path))
    reader.Reload()
    assert [event.value for event in reader.Scalars("train/block0/x")] == [1.0, 2.0]
    logbook = Logbook(run, 1, marks)
    logbook.write(2, Reading({"train/block0/x": 3.0}))
    logbook.close()
    reader.Reload()
    assert [event.value for event in reader.Scalars("train/block0/x")] == [1.0, 3.0]


def test_two_logbooks_of_one_second_share_no_file(run: Run) -> None:
    marks: dict[str, int] = {}
    for step in range(3):
        logbook = Logbook(run, step, marks)
        logbook.write(step + 1, Reading({"train/block0/x": float(step)}))
        marks = logbook.sync()
        logbook.close()
    assert len(list(run.path.glob("*tfevents*"))) == 3
    assert [step for step, _ in tiny.scalars(run)["train/block0/x"]] == [1, 2, 3]


def test_without_marks_nothing_is_cut(run: Run) -> None:
    for step in (1, 2):
        logbook = Logbook(run, 0, None)
        logbook.write(step, Reading({"train/block0/x": 1.0}))
        logbook.close()
    assert len(tiny.lines(run)) == 2


def test_a_full_disk_is_a_line_and_closing_says_nothing_more(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    logbook = Logbook(run, 0, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        logbook.write(1, Reading({"train/block0/x": 1.0}))
        with pytest.raises(CheckpointError, match=r"cannot write the log in .*: File too large"):
            logbook.write(2, Reading({f"train/block{index}/x": 1.0 for index in range(40)}))
        logbook.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr() == ("", "")


def test_a_run_folder_that_is_gone_is_a_line(run: Run) -> None:
    run.path.rmdir()
    with pytest.raises(CheckpointError, match="cannot write the log in"):
        Logbook(run, 0, {})
