"""`infomax runs` and `infomax compare`: what users read of many runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from conftest import Infomax
from infomax_cli.core.comparison_plot import draw_comparison
from infomax_cli.ledger import block_losses, read_entry, read_losses
from infomax_cli.runs import Run
from made_runs import made_run, probed


@pytest.fixture
def two(here: Path) -> tuple[Run, Run]:
    """An older run, better at vowels, and a newer one."""
    one, other = made_run(here / "runs", "one", age=60), made_run(here / "runs", "other", seed=3, recipe="grim")
    probed(one, "vowel", {0: 0.5, 1: 0.75})
    probed(other, "vowel", {0: 0.4, 1: 0.3})
    return one, other


def test_runs_are_listed_with_their_losses_and_best_depths(
    infomax: Infomax, two: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    done = infomax("runs")
    assert done.code == 0, done.err
    one, other = (next(line for line in done.out.splitlines() if f" {run.name} " in line) for run in two)
    assert one.split()[:3] == ["one", "tiny", "syllables"]
    assert one.split()[-4:] == ["2.5", "1.25", "75.0", "@1"]
    assert "4/8" in one
    assert other.split()[-4:] == ["5.5", "4.25", "40.0", "@0"]


def test_runs_come_in_the_order_that_is_asked_for(infomax: Infomax, two: tuple[Run, Run]) -> None:
    def order(*arguments: str) -> list[str]:
        done = infomax("runs", "--json", *arguments)
        assert done.code == 0, done.err
        return [Path(run["run"]).name for run in json.loads(done.out)]

    assert order() == ["one", "other"]
    assert order("--sort", "recipe") == ["other", "one"]
    assert order("--sort", "loss") == ["other", "one"]  # the best last
    assert order("--sort", "vowel") == ["other", "one"]
    assert order("train.seed=3") == ["other"]
    assert order("name=tiny", "loss.negatives=4") == ["one"]
    assert order("name=gr*", "data.name=*[bls]") == ["other"]
    assert order("loss.0.name=infonce", "train.clip=null") == ["one", "other"]
    assert order("name=nobody", "--sort", "vowel") == []
    wrong = infomax("runs", "--sort", "vowl")
    assert wrong.code == 2
    assert "vowel" in wrong.err


def test_a_run_that_cannot_be_read_costs_a_note_only(infomax: Infomax, two: tuple[Run, Run]) -> None:
    two[0].recipe_file.write_text("name: [")
    with two[1].metrics.open("a") as file:
        file.write('{"step": 5, "train/blo')  # killed while it wrote
    (two[1].path / "probes" / "broken.json").write_text("{}")
    done = infomax("runs", "--json")
    assert done.code == 0, done.err
    assert [run["losses"]["train"] for run in json.loads(done.out)] == [5.5]
    assert f"note: {two[0].path.relative_to(Path.cwd())} is left out" in done.err


@pytest.mark.parametrize(
    ("condition", "told", "hint"),
    [
        ("nme=tiny", "nme: no run's recipe says anything of it", "did you mean name?"),
        ("seed=3", "seed: no run's recipe says anything of it", "did you mean train.seed?"),
        ("name=tin", "none of the 2 runs in runs has name=tin", "did you mean name=tiny?"),
        ("train.seed=17", "none of the 2 runs in runs has train.seed=17", "there are: 0, 3"),
        ("train.lr", "train.lr: not a condition", "for example name=gim"),
    ],
)
def test_conditions_that_no_run_meets_say_what_there_is(
    infomax: Infomax, two: tuple[Run, Run], condition: str, told: str, hint: str
) -> None:
    done = infomax("runs", condition, "--sort", "vowel")
    assert done.code == 2
    assert [line in shown for line, shown in zip((told, hint), done.err.splitlines(), strict=True)] == [True, True]


def test_no_runs_is_one_line_that_says_what_to_do(infomax: Infomax, here: Path) -> None:
    done = infomax("runs", "name=gim")
    assert done.code == 2
    assert "runs holds no run" in done.err
    assert "infomax train" in done.err


def test_runs_are_compared_by_recipe_loss_and_probe(infomax: Infomax, two: tuple[Run, Run]) -> None:
    probed(two[0], "vowel", {0: 0.9, 1: 0.9}, classifier="mlp")  # nothing to compare it with
    done = infomax("compare", "one", "other")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["train.seed", "0", "3"] in lines
    assert ["train,", "all", "2.5000", "5.5000"] in lines
    assert ["validation,", "block", "0", "1.2500", "4.2500"] in lines
    assert ["1", "75.0", "30.0"] in lines
    assert ["1", "90.0"] in lines
    assert ["untrained", "20.0", "20.0"] in lines
    assert Path("runs/compare.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads(Path("runs/compare.json").read_text())
    assert found["differences"] == {"train.seed": {"runs/one": 0, "runs/other": 3}}
    assert [probe["protocol"] for probe in found["probes"]] == ["linear, on test", "mlp, on test"]


def test_what_a_recipe_does_not_say_is_told_from_null(infomax: Infomax, two: tuple[Run, Run]) -> None:
    text = two[1].recipe_file.read_text().replace("train:   {", "train:   {clip: 1, schedule: {at: [3]}, ")
    two[1].recipe_file.write_text(text.replace("loss:    {", "loss:    [{name: kl, weight: 0.5}, {"))
    two[1].recipe_file.write_text(two[1].recipe_file.read_text().replace("negatives: 4}", "negatives: 4}]"))
    two[0].recipe_file.write_text(two[0].recipe_file.read_text().replace("cut:     each", "cut:     [1, 3]"))
    done = infomax("compare", "one", "other")
    assert done.code == 0, done.err
    table = done.out.partition("\n\n")[0]
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "cut [1, 3] each" in lines
    assert "train.clip null 1.0" in lines
    assert "train.schedule.at - [3]" in lines
    assert "loss.0.name infonce kl" in lines
    assert "loss.1.name - infonce" in lines
    assert not [line for line in lines if "{" in line]
    found = json.loads(Path("runs/compare.json").read_text())["differences"]
    assert found["train.clip"] == {"runs/one": None, "runs/other": 1.0}
    assert found["train.schedule.at"] == {"runs/other": [3]}


def test_titles_are_on_one_line_however_narrow_a_table_is(infomax: Infomax, two: tuple[Run, Run]) -> None:
    assert "vowel: linear, on test, test accuracy in %" in infomax("compare", "one", "other").out.splitlines()


def test_a_single_step_and_a_single_depth_are_seen_in_the_picture(two: tuple[Run, Run]) -> None:
    for run in two:
        run.metrics.write_text(run.metrics.read_text().split("\n", 1)[1])  # what was logged at step 4 alone
        probed(run, "speaker", {5: 0.5})
    figure = draw_comparison([read_entry(run) for run in two], ["one", "other"])
    losses, speaker, _ = figure.axes
    shown = {tuple(line.get_xydata()[-1]): line for line in losses.lines if len(line.get_xydata())}
    assert sorted(shown) == [(4, 1.25), (4, 2.5), (4, 4.25), (4, 5.5)]
    assert [shown[place].get_marker() for place in sorted(shown)] == ["o", "o", "s", "s"]
    assert all(float(tick).is_integer() for axes in (losses, speaker) for tick in axes.get_xticks())


def test_compare_needs_two_runs_and_a_place_for_its_picture(infomax: Infomax, two: tuple[Run, Run]) -> None:
    assert "two runs or more, and these are one" in infomax("compare", "one", "runs/one").err
    twice = infomax("compare", "one", "other", "one", "--json")
    assert json.loads(twice.out)["runs"] == ["runs/one", "runs/other"]
    assert "no run or recipe 'three'" in infomax("compare", "one", "three").err
    wrong = infomax("compare", "one", "other", "--out", "picture.pdf")
    assert (wrong.code, "picture.png" in wrong.err) == (2, True)
    Path("file").touch()
    blocked = infomax("compare", "one", "other", "--out", "file/picture.png")
    assert blocked.code == 1
    assert "--out" in blocked.err


def test_a_block_of_several_terms_logs_what_it_minimises(here: Path) -> None:
    two_losses = "loss=[{name: infonce, steps: 3, negatives: 4, weight: 2.0}, {name: supervised, label: syllable}]"
    _, run = tiny.train(here, two_losses, "train.steps=2", "cut=none")
    logged = read_losses(run.metrics)
    (total,) = block_losses(logged, "train").values()
    (nce,), (supervised,) = logged["train/block0/infonce"], logged["train/block0/supervised"]
    assert total == ((2, pytest.approx(2 * nce[1] + supervised[1], rel=1e-6)),)
    assert read_entry(run).loss("train") == total[-1][1]


def test_the_only_term_of_a_block_is_its_loss(here: Path) -> None:
    _, run = tiny.train(here, "train.steps=2")
    entry = read_entry(run)
    logged = [
        curve[-1][1] for name, curve in entry.losses.items() if name.startswith("train/") and name.count("/") == 2
    ]
    assert len(logged) == 6
    assert entry.loss("train") == pytest.approx(sum(logged))
    assert not [name for name in entry.losses if name.endswith("/total")]
