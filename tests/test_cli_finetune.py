"""From one run to another task: fine-tuning all of its encoder, and heads for another dataset on it frozen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from conftest import Infomax
from infomax_cli.core.checkpoint import load_checkpoint
from infomax_cli.runs import Run
from pictured import Pictured, SmallConvnet

PRETRAINED = """\
data:    {name: pictured, items: 24}
encoder: {name: small_convnet, channels: 5}
loss:    {name: fragile, block: 9}
train:   {steps: 2, batch: 8, workers: 0}
"""
LOSS_ALONE = """\
loss:    {name: supervised, label: class}
train:   {steps: 3, batch: 8, lr: 1.0e-2, workers: 0}
"""


@pytest.fixture
def pretrained(infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a small convnet on images of four classes."""
    tiny.plant(monkeypatch, pictured=Pictured, small_convnet=SmallConvnet, fragile=tiny.Fragile)
    (here / "pretrained.yaml").write_text(PRETRAINED)
    done = infomax("train", "pretrained.yaml", "--json")
    assert done.code == 0, done.err
    return Run(here / json.loads(done.out)["run"])


def weights(run: Run) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(run.last)["encoder"]
    return found


# --- fine-tuning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["supervised", "supervised-greedy"])
def test_supervised_from_a_run_fine_tunes_all_of_its_encoder(
    infomax: Infomax, here: Path, pretrained: Run, recipe: str
) -> None:
    changes = ["loss.label=class", "train.steps=3", "train.workers=0", "--from", pretrained.name, "--json"]
    done = infomax("train", recipe, *changes, "train.lr=1.0e-2")
    assert done.code == 0, done.err
    assert f"from runs/{pretrained.name}: data pictured, encoder small_convnet" in done.err
    tuned = Run(here / json.loads(done.out)["run"])
    assert tuned.recipe().encoder == pretrained.recipe().encoder
    assert tuned.recipe().data == pretrained.recipe().data
    before, after = weights(pretrained), weights(tuned)
    same = [name for name in before if torch.equal(before[name], after[name])]
    # a bias before batch norm moves nothing, and so is not moved
    assert all(name.endswith("0.bias") for name in same), same
    still = infomax("train", recipe, *changes, "train.lr=1.0e-30", "cut=none")
    arrived = weights(Run(here / json.loads(still.out)["run"]))
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], arrived[name]) for name in learnt)


def test_a_recipe_that_is_its_loss_alone_takes_encoder_and_data_of_the_run(
    infomax: Infomax, here: Path, pretrained: Run
) -> None:
    (here / "alone.yaml").write_text(LOSS_ALONE)
    done = infomax("train", "alone.yaml", "--from", pretrained.name, "data.unlabelled=3", "--dry-run", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)["recipe"]
    assert told["encoder"] == {"name": "small_convnet", "channels": 5}
    assert (told["data"]["items"], told["data"]["unlabelled"]) == (24, 3)
    alone = infomax("train", "alone.yaml")
    assert alone.code == 2
    assert "the section 'data' is missing" in alone.err
    assert "--from RUN brings that run's" in alone.err


def test_detached_heads_learn_from_augmented_views_of_an_encoder_that_stays_as_it_is(
    infomax: Infomax, here: Path, pretrained: Run
) -> None:
    changes = ["loss.label=class", "loss.detach=true", "loss.head=amdim", "views.augment=[flip]", "train.steps=3"]
    done = infomax("train", "supervised", *changes, "train.workers=0", "--from", pretrained.name, "--json")
    assert done.code == 0, done.err
    heads = Run(here / json.loads(done.out)["run"])
    before, after = weights(pretrained), weights(heads)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)  # statistics of batch norm too
    assert "train/block0/supervised/accuracy" in heads.metrics.read_text()


def test_other_recipes_keep_their_own_data_and_encoder(infomax: Infomax, here: Path, pretrained: Run) -> None:
    (here / "own.yaml").write_text("data: {name: pictured, items: 16}\nencoder: {name: small_convnet}\n" + LOSS_ALONE)
    told = json.loads(infomax("train", "own.yaml", "--from", pretrained.name, "--dry-run", "--json").out)["recipe"]
    assert told["data"]["items"] == 16
    assert told["encoder"]["channels"] == 6


def test_data_of_the_command_line_takes_the_place_of_the_runs(infomax: Infomax, pretrained: Run) -> None:
    done = infomax(
        "train", "supervised", "loss.label=class", "--from", pretrained.name, "--data", "pictured", "data.classes=5",
        "--dry-run", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["recipe"]["data"]["classes"] == 5
    assert "encoder small_convnet" in done.err


@pytest.mark.parametrize(
    ("section", "told"),
    [("loss", "from: 'loss' is no section that a run can bring"), ("{a: 1}", "is no section that a run can bring")],
)
def test_sections_that_a_run_cannot_bring_are_refused(infomax: Infomax, here: Path, section: str, told: str) -> None:
    (here / "wrong.yaml").write_text(f"from: [{section}]\n{PRETRAINED}")
    done = infomax("train", "wrong.yaml")
    assert done.code == 2
    assert told in done.err


def test_what_a_recipe_leaves_to_a_run_cannot_be_changed_too_late(infomax: Infomax, pretrained: Run) -> None:
    done = infomax("train", "supervised", "--from", pretrained.name, "from=data")
    assert done.code == 2
    assert "there is no section 'from'" in done.err


# --- heads for another dataset ---------------------------------------------------------------------------------------


def test_a_frozen_encoder_is_probed_on_another_dataset_with_more_classes(
    infomax: Infomax, here: Path, pretrained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Pictured):
        """Of five classes, where the run's has four."""

        def __init__(self, *, items: int = 30, hue: float = 0.0) -> None:
            super().__init__(classes=5, items=items)

    tiny.plant(monkeypatch, other=Other)
    before = pretrained.encoder_file.read_bytes()
    done = infomax(
        "probe", "class", str(pretrained.path), "--data", "other", "data.hue=0.5", "--depth", "2", "--classifier",
        "knn", "--neighbours", "3", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "data: other, keeping of the run's: items=24" in done.err
    found = json.loads(done.out)["labels"]["class"]
    assert (found["data"], found["classes"]) == ("other", 5)
    assert found["scores"][0]["train_rows"] == 24
    assert len(found["sheets"][0]["queries"]) == 3
    kept = sorted(path.name for path in (pretrained.path / "probes").iterdir())
    stem = "mean-on-other-depth2"
    assert kept == [f"class-knn-{stem}.json", f"class-knn-{stem}.png", f"class-neighbours-{stem}.png"]
    assert pretrained.encoder_file.read_bytes() == before
    again = infomax(
        "probe", "class", str(pretrained.path), "--data", "other", "data.items=20", "--depth", "0", "--json"
    )
    assert again.code == 0, again.err
    assert "items" not in again.err.splitlines()[0]  # what is given is not the run's


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--data", "pictured", "data.channels=1"], "pictured holds images of 1 channel and 16x16 pixels, but the "),
        (["--data", "syllables"], "but the encoder takes images of 3 channels and 16x16 pixels"),
        (["--data", "pictured", "data.size=8"], "hint: data.size=16"),
        (["--data", "pictures"], "pictures"),
        (["data.name=other"], "another dataset takes `infomax probe --data NAME`"),
    ],
)
def test_what_the_encoder_cannot_take_is_refused_in_a_line(
    infomax: Infomax, pretrained: Run, changes: list[str], told: str
) -> None:
    done = infomax("probe", "class", str(pretrained.path), *changes)
    assert done.code == 2
    assert told in done.err
    assert "encoder." not in done.err  # which is trained, and cannot be built for other data


def test_a_sheet_and_grids_are_told_on_the_command_line(infomax: Infomax, pretrained: Run) -> None:
    done = infomax("probe", "class", str(pretrained.path), "--protocol", "dim", "--classifier", "linear")
    assert done.code == 0, done.err
    rows = [line.split()[:2] for line in done.out.splitlines() if line.strip()[:1].isdigit()]
    assert rows == [["1", "5x5"], ["2", "1x1"], ["3", "1x1"]]
    many = infomax("probe", "class", str(pretrained.path), "--neighbours", "999", "--classifier", "knn")
    assert many.code == 2
    assert "--neighbours 999: only 20 test items have the label" in many.err
