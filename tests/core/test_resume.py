"""A run that was stopped, however it was, goes on as though it had not been."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from infomax_cli.core.checkpoint import load_checkpoint
from infomax_cli.core.logbook import Logbook, Reading
from infomax_cli.core.trainer import Trainer
from infomax_cli.errors import CheckpointError, Interrupted
from infomax_cli.runs import Run, new_run

MONITOR = "loss=[{name: infonce, steps: 3, negatives: 4}, {name: supervised, label: speaker, detach: true}]"
SETTINGS = {
    "adam": [],
    "accumulate, clip and a monitor": ["train.accumulate=2", "train.clip=0.5", MONITOR],
    "fp16": ["train.amp=fp16"],
    "bf16 and two views": ["train.amp=bf16", "views={count: 2, augment: [noise], shared: [gain]}"],
    "cosine with warm-up, SGD with momentum": [
        "train.optimizer=sgd", "train.schedule=cosine", "train.warmup=3", "train.weight_decay=0.01",
    ],
    "milestones, batch norm, one speaker a batch": [
        "train={epochs: 2, batch: 4, lr: 1e-2, schedule: {at: [1]}, batches_of: speaker, save_every: 3, workers: 0}",
        "encoder.norm=batch",
    ],
    "Gaussians, drawn twice, and a KL that warms up": [
        "encoder.variational=[0,4]", "encoder.norm=batch", "sampling.draws=independent",
        "loss=[{name: infonce, steps: 3, negatives: 4}, {name: kl, weight: 0.01, warmup: 5}]",
    ],
}  # fmt: skip


def only_run(here: Path) -> Run:
    (path,) = (here / "runs").iterdir()
    return Run(path)


def start(forked: Any, here: Path, *overrides: str, before: str = "") -> Any:
    """A run under way, in a process of its own."""
    return forked("train", str(tiny.write_recipe(here)), *overrides, before=before)


# what a process does to itself, `{step}` steps on: nothing is more sudden
KILLED = {
    "in the middle of a step": """
from infomax_cli.core.trainer import Trainer
block, count = Trainer._train_block, 0
def dying(self, *rest):
    global count
    count += 1
    if count == {step} * 6 + 4:
        os.kill(os.getpid(), 9)
    return block(self, *rest)
Trainer._train_block = dying
""",
    "while a checkpoint is written": """
import torch
save = torch.save
def dying(state, file):
    save(state, file)
    if state["step"] >= {step}:
        file.truncate(1000)
        os.kill(os.getpid(), 9)
torch.save = dying
""",
    "between the checkpoint's writing and its naming": """
import torch
save = torch.save
def dying(state, file):
    save(state, file)
    file.flush()
    if state["step"] >= {step}:
        os.kill(os.getpid(), 9)
torch.save = dying
""",
    "while it is validated": """
from infomax_cli.core.trainer import Trainer
validate = Trainer._validate_on
def dying(self, batch, number, meter):
    if self.step >= {step} and number == 1:
        os.kill(os.getpid(), 9)
    validate(self, batch, number, meter)
Trainer._validate_on = dying
""",
    "while the log is written": """
from infomax_cli.core.logbook import Logbook, Reading
write = Logbook.write
def dying(self, step, values):
    write(self, step, values)
    if step >= {step}:
        self._file.write('{{"step": 99, "tr')
        self._file.flush()
        self.board.add_scalar("train/block0/infonce", 1.0, step + 1)
        self.board.flush()
        os.kill(os.getpid(), 9)
Logbook.write = dying
""",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_resume_after_a_kill_equals_the_uninterrupted_run(setting: str, here: Path, forked: Any) -> None:
    overrides = SETTINGS[setting]
    made, whole = tiny.train(here / "whole", *overrides)
    batches = 4 * made.options.accumulate
    before = "import os\n" + KILLED["in the middle of a step"].format(step=batches)
    assert start(forked, here, *overrides, before=before).wait().code == -signal.SIGKILL
    run = only_run(here)
    assert load_checkpoint(run.last)["step"] == 3
    assert forked("train", "--resume").wait().code == 0
    tiny.assert_same_run(whole, run)


@pytest.mark.parametrize(
    ("moment", "workers"), [*((moment, 0) for moment in KILLED), *((moment, 2) for moment in list(KILLED)[::3])]
)
def test_resume_after_a_kill_at_any_moment(moment: str, workers: int, here: Path, forked: Any) -> None:
    """Killed twice, then ended."""
    overrides = [f"train.workers={workers}"]
    _, whole = tiny.train(here / "whole", *overrides)
    before = "import os\n" + KILLED[moment].format(step=4)
    assert start(forked, here, *overrides, before=before).wait().code == -signal.SIGKILL
    run = only_run(here)
    again = forked("train", str(run.path), "--resume", before="import os\n" + KILLED[moment].format(step=8))
    assert again.wait().code == (0 if moment == "in the middle of a step" else -signal.SIGKILL)
    done = forked("train", "tiny.yaml", "--resume").wait()
    assert done.code == 0, done.err
    tiny.assert_same_run(whole, run)
    assert not list(run.path.rglob("*.tmp"))


SLOWLY = """
import time
from infomax_cli.core.trainer import Trainer
step = Trainer._make_step
Trainer._make_step = lambda *rest: (time.sleep(0.05), step(*rest))[1]
"""


def test_resume_after_kills_at_random_moments(here: Path, forked: Any) -> None:
    overrides = ["train.steps=16", "train.save_every=1", "train.workers=1"]
    _, whole = tiny.train(here / "whole", *overrides)
    moments = random.Random(0)
    child = start(forked, here, *overrides, before=SLOWLY)
    child.wait_for("runs/*/recipe.yaml")
    kills = 0
    while kills < 6:
        time.sleep(moments.uniform(0, 0.4))
        child.signal(signal.SIGKILL)
        if child.wait().code == 0:
            break
        kills += 1
        child = forked("train", "--resume", before=SLOWLY)
    assert child.wait().code == 0, child.wait().err
    assert kills >= 2
    tiny.assert_same_run(whole, only_run(here))


@pytest.mark.parametrize("function", ["Logbook.__init__", "Trainer.save"])
def test_a_run_killed_before_its_first_checkpoint_begins_anew(function: str, here: Path, forked: Any) -> None:
    _, source = tiny.train(here / "source", "train.seed=9")
    whole, done = tiny.trainer(f"train.init={source.path}"), new_run(here / "whole", "tiny")
    whole.start_from(source)
    whole.train(done, tiny.Silent())
    module = {"Logbook": "logbook", "Trainer": "trainer"}[function.partition(".")[0]]
    before = f"import os\nfrom infomax_cli.core.{module} import *\n{function} = lambda *_: os.kill(os.getpid(), 9)"
    recipe = str(tiny.write_recipe(here))
    child = forked("train", recipe, f"train.init={source.path}", before=before)
    assert child.wait().code == -signal.SIGKILL
    run = only_run(here)
    assert not run.last.exists()
    resumed = forked("train", "--resume").wait()
    assert resumed.code == 0, resumed.err
    tiny.assert_same_run(done, run)


# --- asked to stop ---------------------------------------------------------------------------------------------------

ASKED = """
import os, signal
from infomax_cli.core.{module} import {kind}
inner = {kind}.{method}
def asked(self, *rest):
    if {when}:
        {sends}
    return inner(self, *rest)
{kind}.{method} = asked
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "group"), [("SIGINT", True), ("SIGTERM", False), ("SIGTERM", True)])
def test_a_stop_saves_and_resume_equals_the_uninterrupted_run(
    number: str, group: bool, workers: int, here: Path, forked: Any
) -> None:
    """A terminal's Ctrl-C and many schedulers' SIGTERM reach the loader's workers too."""
    _, whole = tiny.train(here / "whole")
    waits = """open("ready", "w").close()
        while not os.path.exists("sent"): time.sleep(0.01)"""
    before = "import time" + ASKED.format(
        module="trainer", kind="Trainer", method="train_on", when="self.step == 4", sends=waits
    )
    child = start(forked, here, f"train.workers={workers}", before=before)
    child.wait_for("ready")
    child.signal(signal.Signals[number], group=group)
    time.sleep(0.1)  # for the workers to die of it, were they to
    (here / "sent").write_text("")
    stopped = child.wait()
    run = only_run(here)
    assert stopped.code == 130, stopped.err
    first, *rest = stopped.err.splitlines()
    assert first == f"training {run.path.relative_to(here)} on cpu, steps 0 to 8"
    assert rest[-2:] == [
        f"stopped: at step 5; saved in {run.path.relative_to(here)}",
        f"hint: go on with: infomax train {run.path.relative_to(here)} --resume",
    ]
    assert all(line.startswith("step ") for line in rest[:-2])
    assert load_checkpoint(run.last)["step"] == 5
    assert forked("train", "--resume").wait().code == 0
    tiny.assert_same_run(whole, run)


def test_a_stop_during_validation_puts_it_off(here: Path, forked: Any) -> None:
    """Also that of the last step: the run is not over then."""
    _, whole = tiny.train(here / "whole")
    for step in (5, 8):
        before = ASKED.format(
            module="trainer", kind="Trainer", method="_validate_on",
            when=f"self.step == {step}", sends="os.kill(os.getpid(), signal.SIGTERM)",
        )  # fmt: skip
        child = start(forked, here, before=before) if step == 5 else forked("train", "--resume", before=before)
        stopped = child.wait()
        assert (stopped.code, f"at step {step}; saved" in stopped.err) == (130, True)
        assert load_checkpoint(only_run(here).last)["awaits_validation"]
    assert forked("train", "--resume").wait().code == 0
    tiny.assert_same_run(whole, only_run(here))


def test_a_second_ctrl_c_does_not_wait(here: Path, forked: Any) -> None:
    sends = (
        "os.kill(os.getpid(), signal.SIGINT)" + "; os.kill(os.getpid(), signal.SIGINT); raise SystemExit('too late')"
    )
    before = ASKED.format(module="trainer", kind="Trainer", method="train_on", when="self.step == 4", sends=sends)
    stopped = start(forked, here, "train.workers=2", before=before).wait()
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert load_checkpoint(only_run(here).last)["step"] == 3
    assert forked("train", "--resume").wait().code == 0


def test_ctrl_c_before_the_loop_leaves_nothing(here: Path, forked: Any) -> None:
    before = """
import os, signal
from infomax_cli.core import build
make = build.build_encoder
build.build_encoder = lambda *rest: (os.kill(os.getpid(), signal.SIGINT), make(*rest))[1]
"""
    stopped = start(forked, here, before=before).wait()
    assert (stopped.code, stopped.out, stopped.err) == (130, "", "stopped: by Ctrl-C or SIGTERM\n")
    assert not (here / "runs").exists()


def test_a_stop_before_the_first_step_is_a_run_that_can_go_on(here: Path, forked: Any) -> None:
    _, whole = tiny.train(here / "whole")
    sends = "os.kill(os.getpid(), signal.SIGINT)"
    before = ASKED.format(module="trainer", kind="Trainer", method="save", when="self.step == 0", sends=sends)
    assert start(forked, here, before=before).wait().code == 130
    assert forked("train", "--resume").wait().code == 0
    tiny.assert_same_run(whole, only_run(here))


def test_a_stop_on_the_last_step_is_the_end(here: Path, forked: Any) -> None:
    sends = "os.kill(os.getpid(), signal.SIGTERM)"
    before = ASKED.format(module="trainer", kind="Trainer", method="save", when="self.step == 8", sends=sends)
    done = start(forked, here, before=before).wait()
    assert (done.code, done.out.startswith("trained runs/tiny-")) == (0, True)


def test_training_in_another_thread_leaves_the_signals_alone(here: Path) -> None:
    import threading

    before = signal.getsignal(signal.SIGINT)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            tiny.train(here, "train.steps=1")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    assert signal.getsignal(signal.SIGINT) is before


# --- what resuming is not --------------------------------------------------------------------------------------------


def test_resuming_with_more_steps_goes_on_where_the_run_ended(here: Path, infomax: Any) -> None:
    recipe = str(tiny.write_recipe(here))
    assert infomax("train", recipe).code == 0
    run = only_run(here)
    assert infomax("train", recipe, "--resume", "train.steps=12").code == 0
    assert load_checkpoint(run.last)["step"] == 12
    assert run.recipe().train.steps == 12
    _, longer = tiny.train(here / "longer", "train.steps=12", "train.log_every=4", "train.validate_every=4")
    _, extended = tiny.train(here / "extended", "train.log_every=4", "train.validate_every=4")
    more = tiny.trainer("train.steps=12", "train.log_every=4", "train.validate_every=4")
    more.resume(extended)
    more.train(extended, tiny.Silent())
    tiny.assert_same_run(longer, extended)


def test_resuming_what_has_ended_says_so_and_touches_nothing(here: Path, infomax: Any) -> None:
    assert infomax("train", str(tiny.write_recipe(here))).code == 0
    run = only_run(here)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.path.rglob("*") if path.is_file()}
    done = infomax("train", "--resume")
    assert (done.code, done.out) == (0, "")
    assert (
        done.err
        == f"{run.path.relative_to(here)} is trained to its end, 8 steps; for more give train.steps= or train.epochs=\n"
    )
    del before[run.path / ".lock"]
    assert all((path.stat().st_mtime_ns, path.stat().st_size) == stamp for path, stamp in before.items())


def test_a_recipe_that_was_edited_is_refused(here: Path) -> None:
    _, run = tiny.train(here)
    edited = tiny.trainer("train.lr=0.5", "loss.negatives=5")
    with pytest.raises(CheckpointError, match=r"no longer the recipe .*: loss\.0\.negatives, train\.lr$"):
        edited.resume(run)


def test_what_others_wrote_into_the_run_is_left_alone(here: Path) -> None:
    made = tiny.trainer()
    run = new_run(here, "tiny")
    display = tiny.Silent()

    def stop(step: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    display.progress = stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        made.train(run, display)
    theirs = [run.path / "events.out.tfevents.0.other", run.path / "probe.json"]
    for path in theirs:
        path.write_text("theirs")
    again = tiny.trainer()
    again.resume(run)
    again.train(run, tiny.Silent())
    assert [path.read_text() for path in theirs] == ["theirs", "theirs"]


def test_a_log_is_cut_back_to_what_the_checkpoint_vouches_for(here: Path) -> None:
    run = new_run(here, "tiny")
    logbook = Logbook(run, 0, {})
    logbook.write(1, Reading({"train/block0/x": 1.0}))
    marks = logbook.sync()
    logbook.write(2, Reading({"train/block0/x": 2.0}))
    logbook.close()
    logbook = Logbook(run, 1, marks)
    logbook.write(2, Reading({"train/block0/x": 3.0}))
    logbook.close()
    assert [line["train/block0/x"] for line in tiny.lines(run)] == [1.0, 3.0]
    assert tiny.scalars(run) == {"train/block0/x": [(1, 1.0), (2, 3.0)]}


def test_the_checkpoint_comes_after_what_it_vouches_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it the other way round, a kill between them would leave an encoder of an earlier step for good."""
    from infomax_cli.core import trainer

    order: list[str] = []
    for name in ("save_encoder", "save_checkpoint"):
        inner = getattr(trainer, name)
        monkeypatch.setattr(trainer, name, lambda *rest, name=name, inner=inner: (order.append(name), inner(*rest)))
    sync = Logbook.sync
    monkeypatch.setattr(Logbook, "sync", lambda self: (order.append("sync"), sync(self))[1])
    tiny.train(here, "train.steps=1")
    assert order == ["sync", "save_encoder", "save_checkpoint"] * 2
    assert Trainer.finished
