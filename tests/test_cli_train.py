"""`infomax train` as a user meets it: what it says, where, with which exit code, and what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny
from infomax_cli.core.checkpoint import load_checkpoint
from infomax_cli.runs import Run

Infomax = Any


@pytest.fixture
def recipe(here: Path) -> str:
    return str(tiny.write_recipe(here))


def only_run(here: Path) -> Run:
    (path,) = (here / "runs").iterdir()
    return Run(path)


def leaves_nothing(here: Path) -> bool:
    runs = here / "runs"
    return not runs.exists() or not list(runs.iterdir())


# --- what goes well --------------------------------------------------------------------------------------------------


def test_a_run_says_where_it_is_how_it_goes_and_what_is_next(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe)
    run = only_run(here)
    where = run.path.relative_to(here)
    assert done.code == 0
    assert done.out == f"trained {where}\n"
    first, *lines, last = done.err.splitlines()
    assert first == f"training {where} on cpu, steps 0 to 8"
    assert last == "next: infomax probe speaker,syllable,vowel,phone"
    assert [line.split()[1] for line in lines] == ["2/8", "8/8", "8/8"]
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"step 8/8  train  (block\d infonce {number}  ){{6}}[\d.]+ items/s  0:00 left", lines[1]
    )  # fmt: skip
    assert {path.name for path in run.path.iterdir() if "tfevents" not in path.name} == {
        "recipe.yaml", "checkpoints", "encoder.safetensors", "metrics.jsonl", "README.md", "data.json", ".lock",
    }  # fmt: skip
    assert run.recipe_file.read_text().startswith(f"# Resolved by infomax; made from {recipe}\n")
    assert run.recipe().encoder.options["cell"] == "gru"  # defaults are filled in


def test_json_stands_alone_on_stdout(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe, "train.steps=3", "--json")
    told = json.loads(done.out)
    assert (told["run"], told["step"]) == (str(only_run(here).path.relative_to(here)), 3)
    assert told["metrics"]["validation/block5/infonce"] > 0
    again = infomax("train", "--resume", "--json")
    assert json.loads(again.out) == {**told, "metrics": {}}


def test_a_dry_run_shows_everything_and_writes_nothing(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe, "views.augment=[gain]", "--splits", "2", "--train-block", "0", "--dry-run")
    assert (done.code, done.err) == (0, "")
    text, _, table = done.out.partition("\n\n")
    shown = yaml.safe_load(text)
    assert (shown["cut"], shown["views"]["augment"][0]["name"], shown["encoder"]["norm"]) == ([2], "gain", "none")
    assert table.startswith("items: train 27, validation 9, test 9, seen 27\n")
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[1:]]
    trained = sum(p.numel() for p in tiny.experiment("cut=[2]", "train.block=0").blocks[0].parameters())
    assert rows[:3] == [
        ["block", "stages", "output", "hop", "losses", "parameters"],
        ["0", "0, 1, 2", "6 x 80", "40", "infonce", f"{trained}"],
        ["1", "3, 4, 5", "5 x 20", "160", "not trained", "0"],
    ]
    assert rows[3] == [f"{trained} parameters"]
    assert list(here.iterdir()) == [Path(recipe)]


def test_a_dry_run_in_json(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe, "--dry-run", "--json")
    told = json.loads(done.out)
    assert told["recipe"]["loss"][0]["name"] == "infonce"
    assert told["sizes"]["train"] == 27
    assert [row["hop"] for row in told["blocks"]] == ["5", "20", "40", "80", "160", "160"]
    assert done.err == ""
    assert list(here.iterdir()) == [Path(recipe)]


def test_help_reads_well(infomax: Infomax) -> None:
    done = infomax("train", "--help")
    assert done.code == 0
    assert "Usage: infomax train [OPTIONS] [NAME] [KEY=VALUE]..." in done.out
    for option in ("--splits", "--data", "--root", "--device", "--amp", "--resume", "--from", "--train-block",
                   "--dry-run", "--runs", "--json"):  # fmt: skip
        assert option in done.out
    examples = [line.strip() for line in done.out.splitlines() if line.strip().startswith("infomax train")]
    assert examples == [
        "infomax train gim-syllables",
        "infomax train gim --splits 3 loss.negatives=16 train.lr=1e-3",
        "infomax train gim --resume",
        "infomax train supervised --from RUN loss.label=class",
    ]


def test_splits_cut_into_groups_the_surplus_last(infomax: Infomax, here: Path, recipe: str) -> None:
    for splits, cut in ((1, []), (2, [2]), (5, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 4])):
        told = json.loads(infomax("train", recipe, "--splits", str(splits), "--dry-run", "--json").out)
        assert told["recipe"]["cut"] == cut
        assert len(told["blocks"]) == splits


def test_data_keeps_what_both_datasets_know_and_says_so(
    infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(tiny.Tones):
        def __init__(self, *, crop: int = 1, speakers: list[str] | None = None, items: int = 12) -> None:
            super().__init__(items=items)
            assert (crop, speakers) == (3200, None)

    tiny.plant(monkeypatch, other=Other)
    done = infomax("train", recipe, "--data", "other", "data.items=16", "--dry-run", "--json")
    assert done.err == "data: other, keeping of the recipe's: crop=3200\n"  # what `speakers` may be differs
    data = json.loads(done.out)["recipe"]["data"]
    assert {key: data[key] for key in ("name", "crop", "items")} == {"name": "other", "crop": 3200, "items": 16}


def test_a_root_with_marks_of_yaml_in_its_name_is_taken_as_it_is(infomax: Infomax, here: Path, recipe: str) -> None:
    root = here / "a: b #c [bold]"
    root.mkdir()
    told = json.loads(infomax("train", recipe, "--root", str(root), "--dry-run", "--json").out)
    assert told["recipe"]["data"]["root"] == str(root)


def test_a_runs_folder_with_marks_in_its_name_is_told_as_it_is(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe, "train.steps=1", "--runs", "my [bold] runs: #1")
    assert done.out.startswith("trained my [bold] runs: #1/tiny-")
    again = infomax("train", "--resume", "train.steps=2", "--runs", "my [bold] runs: #1")
    assert again.out == done.out


def test_from_takes_the_encoder_of_a_run_whatever_else_differs(infomax: Infomax, here: Path, recipe: str) -> None:
    assert infomax("train", recipe).code == 0
    source = only_run(here)
    done = infomax(
        "train", recipe, "cut=none", "loss={name: supervised, label: phone}", "train.lr=1e-30", "--from", source.name,
        "--runs", "runs",
    )  # fmt: skip
    assert done.code == 0
    run = next(Run(path) for path in (here / "runs").iterdir() if path != source.path)
    assert run.recipe().train.init == str(source.path)
    assert tiny.same(load_checkpoint(run.last)["encoder"], load_checkpoint(source.last)["encoder"])
    assert load_checkpoint(run.last)["step"] == 8


def test_an_encoder_is_trained_block_after_block(infomax: Infomax, here: Path, recipe: str) -> None:
    source: list[str] = []
    for block in range(3):
        done = infomax("train", recipe, "--train-block", str(block), *source, "train.steps=2", "--json")
        assert done.code == 0
        run = Run(here / json.loads(done.out)["run"])
        state = load_checkpoint(run.last)
        assert list(state["steppers"]) == [f"block{block}"]
        if source:
            below = load_checkpoint(Run(Path(source[1])).last)["encoder"]
            for name, value in state["encoder"].items():
                assert tiny.same(value, below[name]) != name.startswith(f"stages.{block}."), name
        source = ["--from", str(run.path)]


def test_resume_finds_the_run_by_recipe_by_path_and_the_newest(infomax: Infomax, here: Path, recipe: str) -> None:
    assert infomax("train", recipe, "train.steps=1").code == 0
    run = only_run(here)
    for steps, given in enumerate(["tiny.yaml", run.name, str(run.path), f"runs/{run.name}", None], 2):
        arguments = ["train", *([given] if given else []), "--resume", f"train.steps={steps}"]
        done = infomax(*arguments)
        assert done.code == 0, done.err
        assert load_checkpoint(run.last)["step"] == steps
    assert infomax("train", "--resume", "train.steps=9", "--json").code == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_bad_recording_among_good_ones_is_one_line(
    workers: str, infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, tones=tiny.Tones)
    done = infomax("train", recipe, "data={name: tones, fails: corrupt}", f"train.workers={workers}")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == ["error: cannot decode five.flac: it is truncated", "hint: copy it again"]
    assert "Traceback" not in done.err


# --- what is refused before anything is begun ------------------------------------------------------------------------

TWO_LOSSES = "loss=[{name: infonce, steps: 3}, {name: supervised, label: speaker, blocks: [1]}]"
REFUSED = [
    # recipes and their keys
    (["nothing-like-it"], 2, "there is no recipe 'nothing-like-it'", "`infomax recipes` lists them"),
    (["gim-sylables"], 2, "there is no recipe 'gim-sylables'", "did you mean gim-syllables?"),
    (["none.yaml"], 2, "there is no recipe file none.yaml", "`infomax recipes` lists"),
    ([], 2, "which recipe?", "infomax train gim-syllables"),
    (["RECIPE", "train.lrr=1"], 2, "train.lrr is unknown (accepted: ", "did you mean train.lr?"),
    (["RECIPE", "trian.lr=1"], 2, "trian.lr=1: there is no section 'trian'", "did you mean train?"),
    (["RECIPE", "train.lr"], 2, "train.lr: an override is KEY=VALUE", "train.lr=1e-3"),
    (["RECIPE", "train.lr=quick"], 2, "train.lr must be a number, not 'quick'", None),
    (["RECIPE", "train.lr={"], 2, "train.lr={:1: not valid YAML", "infomax recipes show"),
    (["RECIPE", "encoder.chanels=4"], 2, "encoder.chanels is unknown", "did you mean encoder.channels?"),
    (["RECIPE", "encoder.channels=wide"], 2, "encoder.channels must be a whole number, not 'wide'", None),
    (["RECIPE", "encoder.channels=0"], 2, "speech_conv: channels is 0", None),
    (["RECIPE", "loss={name: supervised}"], 2, "loss.label is missing (a word)", "add loss.label=..."),
    (["RECIPE", "data.crop=10"], 2, "syllables: crop is 10", "use at least 400"),
    (["RECIPE", "views.augment=nois"], 2, "views: there is no augmentation 'nois'", "did you mean noise?"),
    # plugins
    (["RECIPE", "loss.name=infonse"], 2, "there is no loss 'infonse'", "did you mean infonce?"),
    (["RECIPE", "encoder.name=speech"], 2, "tiny.yaml with encoder.name=speech: there is no encoder", "_conv"),
    (["RECIPE", "data.name=libri"], 2, "there is no dataset 'libri'", "librispeech"),
    (["RECIPE", "--data", "syllable"], 2, "there is no dataset 'syllable'", "did you mean syllables?"),
    # the cut and the blocks
    (["RECIPE", "cut=2"], 2, "cut must be one of none, each or a list of whole numbers, not 2", None),
    (["RECIPE", "cut=[7]"], 2, "cut: there is nothing to cut after stage 7", "cut after any of 0 to 4"),
    (["RECIPE", "--splits", "9"], 2, "--splits 9: the encoder has 6 stages", "choose 1 to 6"),
    (["RECIPE", "--splits", "2", "cut=each"], 2, "--splits and cut= both say where to cut", "one of them"),
    (["RECIPE", "--train-block", "9", "train.init=x"], 2, "train.block: there is no block 9", "blocks: 0 to 5"),
    (["RECIPE", "--train-block", "1"], 2, "--train-block 1: the blocks below it would be untrained", "--from RUN"),
    (["RECIPE", TWO_LOSSES, "loss.1.blocks=[9]"], 2, "loss supervised: blocks: there is no block 9", "0 to 5"),
    (["RECIPE", TWO_LOSSES, "loss.weight=2"], 2, "there is no loss 'weight' among 2", "loss.0 (infonce)"),
    (["RECIPE", "loss.blocks=[]"], 2, "there is nothing to train: no loss is meant for any block", "loss.blocks"),
    (["RECIPE", "loss.blocks=[1]", "--train-block", "0"], 2, "no loss is meant for any block of block 0", None),
    # losses that do not fit
    (["RECIPE", "loss={name: supervised, label: mood}"], 2, "loss supervised does not fit any block: supervised: the "
     "data has no label 'mood'", None),
    (["RECIPE", "loss.steps=300"], 2, "loss infonce does not fit any block: infonce predicts 300 frames ahead", None),
    (["RECIPE", "loss.sampling=same_time", "train.batch=1"], 2, "one item is too small a batch: infonce: sampling "
     "same_time compares the items of a batch", "take a train.batch of at least 2"),
    (["dim-digits", "train.batch=1"], 2, "one item is too small a batch: batch normalisation learns nothing from",
     "take a train.batch of at least 2"),
    (["amdim-digits", "train.batch=1"], 2, "one item is too small a batch: ", "take a train.batch of at least 2"),
    (["RECIPE", "loss.steps=30", "loss.blocks=[0, 4]"], 2, "loss infonce does not fit block 4", "longer crops"),
    # devices and precision
    (["RECIPE", "--amp", "banana"], 2, "train.amp must be one of none, bf16, fp16, not 'banana'", None),
    (["RECIPE", "--device", "banana"], 2, "--device banana: there is no such device", "auto, cpu, cuda"),
    (["RECIPE", "--device", "meta"], 2, "--device meta: torch finds 0 meta devices", "--device cpu"),
    (["RECIPE", "train.batches_of=mood"], 2, "train.batches_of: the data has no label 'mood'", "it has speaker"),
    (["RECIPE", "train.batches_of=phone"], 2, "the data has no label 'phone' of whole items", "it has speaker"),
    # runs
    (["RECIPE", "--from", "none"], 2, "there is no run or recipe 'none'", "runs holds no run"),
    (["RECIPE", "--resume"], 2, "runs holds no run of tiny", "infomax train tiny"),
    (["--resume"], 2, "runs holds no run", "train one first"),
    (["none", "--resume"], 2, "there is no run or recipe 'none'", None),
    (["tiny", "--resume", "lost"], 2, "--resume takes one name, of a run or of a recipe, or none: not tiny and lost",
     "infomax train lost --resume"),
    (["RECIPE", "--resume", "--splits", "2"], 2, "--resume is the same run: it takes no --splits", "--from RUN"),
    # data
    (["gim"], 1, "there is no LibriSpeech at", "--root"),
    (["RECIPE", "data={name: folder, path: none}"], 1, "none", None),
    (["RECIPE", "--runs", "tiny.yaml/runs"], 1, "cannot make the run folder tiny.yaml/runs/tiny-", "--runs"),
    (["RECIPE", "--runs", "tiny.yaml"], 1, "cannot make the run folder tiny.yaml/tiny-", "--runs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "told", "hint"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_what_cannot_be_done_is_a_line_and_a_hint_and_leaves_nothing(
    arguments: list[str], code: int, told: str, hint: str | None, infomax: Infomax, here: Path, recipe: str
) -> None:
    done = infomax("train", *("tiny.yaml" if argument == "RECIPE" else argument for argument in arguments))
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines()
    assert lines[0].startswith("error: "), done.err
    assert told in lines[0]
    if hint is not None:
        assert hint in lines[1]
    assert len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert leaves_nothing(here)


def test_a_cuda_device_that_is_not_there_is_told(infomax: Infomax, here: Path, recipe: str) -> None:
    count = torch.cuda.device_count()
    done = infomax("train", recipe, "--device", f"cuda:{count}")
    assert done.code == 2
    assert done.err.startswith(f"error: --device cuda:{count}: torch finds {count} cuda devices on this machine\n")
    assert leaves_nothing(here)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: syllables\nencoder: [", "tiny.yaml:2: not valid YAML"),
        ("data: syllables\ndata: folder\n", "tiny.yaml:1: not valid YAML: key 'data' stands twice"),
        ("data: syllables\nencoder: speech_conv\ntrain: {steps: 1}\n", "tiny.yaml: the section 'loss' is missing"),
        (f"{tiny.RECIPE}probe: {{}}\n", "tiny.yaml: there is no section 'probe'"),
        ("", "tiny.yaml: a recipe is a mapping"),
    ],
)
def test_a_recipe_file_that_makes_no_sense_is_told(
    text: str, told: str, infomax: Infomax, here: Path, recipe: str
) -> None:
    Path(recipe).write_text(text)
    done = infomax("train", "tiny.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {told}")
    assert len(done.err.splitlines()) == 2


def test_an_empty_train_split_is_told(
    infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, tones=tiny.Tones)
    done = infomax("train", recipe, "data={name: tones, items: 0}")
    assert (done.code, done.err.splitlines()[0]) == (1, "error: the train split of tones is empty")
    assert leaves_nothing(here)


class Broken(tiny.Fragile):
    def __init__(self, *_: object, **__: object) -> None:
        raise KeyError("weights")


class Misused(tiny.Fragile):
    def forward(self, *_: object) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class Quitting(tiny.Fragile):
    def __init__(self, *_: object) -> None:
        raise SystemExit(0)


class QuittingLater(tiny.Fragile):
    def forward(self, *_: object) -> Any:
        raise SystemExit(0)


class Wordless(tiny.Fragile):
    def forward(self, *_: object) -> Any:
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (Broken, "error: loss stranger cannot be built: KeyError: 'weights'"),
        (Misused, "error: loss stranger fails on block 0: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (Quitting, "error: loss stranger cannot be built: SystemExit: 0"),
        (QuittingLater, "error: loss stranger fails on block 0: SystemExit: 0"),
        (Wordless, "error: loss stranger returns on block 0 what is not a LossOutput of scalar tensors"),
    ],
)
def test_a_stranger_s_loss_that_raises_is_a_line_and_leaves_nothing(
    plugin: type[Any], told: str, infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, stranger=plugin)
    done = infomax("train", recipe, "loss=stranger")
    assert (done.code, done.err.splitlines()[-2]) == (1, told)
    assert done.err.splitlines()[-1].startswith("hint: ")
    assert leaves_nothing(here)


def test_blocks_that_a_loss_does_not_fit_are_told(infomax: Infomax, here: Path, recipe: str) -> None:
    done = infomax("train", recipe, "data.crop=400", "train.steps=1", "train.validate_every=9")
    assert done.code == 0
    assert "note: blocks 4, 5 without infonce: infonce predicts 3 frames ahead, but block 4 makes only" in done.err


# --- what fails on the way -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_exits_1_and_keeps_the_last_good_checkpoint(
    infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, fragile=tiny.Fragile)
    done = infomax("train", recipe, "loss={name: fragile, block: 2, call: 5}")
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "error: the loss fragile of block 2 is not finite at step 5",
        "hint: the checkpoint of step 3 is kept; try a lower train.lr, or train.clip=1, anew or --from this run",
    ]
    run = only_run(here)
    state = load_checkpoint(run.last)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["encoder"].values())
    again = infomax("train", recipe, "train.steps=2", "--from", run.name)
    assert again.code == 0


def resumable(infomax: Infomax, here: Path, recipe: str) -> Run:
    assert infomax("train", recipe, "train.steps=3").code == 0
    return only_run(here)


@pytest.mark.parametrize(
    ("change", "told"),
    [("train.lr=1", "train.lr=1: --resume is the same run"), ("cut=none", "cut=none: --resume is the same run"),
     ("--amp=bf16", 'train.amp="bf16": --resume is the same run')],
)  # fmt: skip
def test_resume_takes_no_change_that_makes_it_another_run(
    change: str, told: str, infomax: Infomax, here: Path, recipe: str
) -> None:
    run = resumable(infomax, here, recipe)
    done = infomax("train", recipe, "--resume", change)
    assert done.code == 2
    first, second = done.err.splitlines()
    assert first.startswith(
        f"error: {told}; only data.path, data.root, train.epochs, train.steps, train.workers may change"
    )
    assert second == f"hint: start a new run from its weights with --from {run.path.relative_to(here)}"


def test_resume_to_fewer_steps_than_were_made_is_refused(infomax: Infomax, here: Path, recipe: str) -> None:
    run = resumable(infomax, here, recipe)
    done = infomax("train", "--resume", "train.steps=2")
    assert done.code == 2
    assert "has been trained for 3 steps, more than 2" in done.err
    assert run.recipe().train.steps == 3


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "hostile", "gone"])
@pytest.mark.parametrize("use", ["--resume", "--from"])
def test_an_unreadable_checkpoint_is_told_and_left_as_it_is(
    damage: str, use: str, infomax: Infomax, here: Path, recipe: str
) -> None:
    run = resumable(infomax, here, recipe)
    whole = run.last.read_bytes()
    if damage == "gone":
        run.last.unlink()
    elif damage == "hostile":
        run.last.write_bytes(b"\x80\x04cos\nsystem\n\x8c\x0etouch was-run\x85R.")
    else:
        run.last.write_bytes({"truncated": whole[:-100], "garbage": b"x" * 500, "empty": b""}[damage])
    metrics = run.metrics.read_bytes()
    done = (
        infomax("train", "--resume", "train.steps=9") if use == "--resume" else infomax("train", recipe, use, run.name)
    )
    assert done.code == 1
    assert len(done.err.splitlines()) == 2
    assert done.err.startswith("error: ")
    assert "last.pt" in done.err
    assert not (here / "was-run").exists()
    assert only_run(here) == run
    assert run.metrics.read_bytes() == metrics
    assert run.recipe().train.steps == 3


def test_from_a_run_of_another_encoder_is_refused_and_leaves_nothing(infomax: Infomax, here: Path, recipe: str) -> None:
    run = resumable(infomax, here, recipe)
    for change, told in (
        ("encoder.channels=7", "stages.0.0.conv.weight is (6, 1, 10), but this encoder's is (7, 1, 10)"),
        ("encoder.norm=batch", "has no stages.0.0.norm.weight: it comes from another encoder"),
        ("encoder.cell=none", "has stages.5.rnn.weight_ih_l0, which this encoder lacks"),
    ):
        done = infomax("train", recipe, "--from", run.name, change)
        assert done.code == 1
        assert told in done.err.splitlines()[0]
        assert done.err.splitlines()[1].startswith("hint: choose a run with the same encoder")
        assert only_run(here) == run
    run.recipe_file.write_text(run.recipe_file.read_text().replace("speech_conv", "echo_conv"))
    done = infomax("train", recipe, "--from", run.name)
    assert (done.code, only_run(here)) == (1, run)
    assert f"{run.name} is echo_conv, and that of this recipe speech_conv" in done.err


def test_a_run_whose_recipe_was_edited_is_refused(infomax: Infomax, here: Path, recipe: str) -> None:
    run = resumable(infomax, here, recipe)
    run.recipe_file.write_text(run.recipe_file.read_text().replace("lr: 0.01", "lr: 0.5"))
    done = infomax("train", "--resume", "train.steps=9")
    assert done.code == 1
    assert "is no longer the recipe that" in done.err
    assert done.err.splitlines()[0].endswith("was trained by: train.lr")


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["save_checkpoint", "save_encoder"])
def test_a_disk_that_fills_up_is_a_line_and_loses_nothing(
    where: str, infomax: Infomax, here: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infomax_cli.core import checkpoint, trainer

    saves = []

    def full(path: Path, *rest: Any) -> None:
        saves.append(path)
        if len(saves) > 2:
            monkeypatch.setattr(checkpoint, "write_atomically", no_room)
        inner(path, *rest)

    def no_room(path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    inner = getattr(trainer, where)
    monkeypatch.setattr(trainer, where, full)
    done = infomax("train", recipe)
    assert done.code == 1
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith(f"error: cannot write {saves[-1]}: No space left on device")
    assert "what was saved before is whole" in hint
    monkeypatch.undo()
    assert load_checkpoint(only_run(here).last)["step"] == 3


def test_a_disk_that_fills_up_while_the_log_is_written(here: Path, recipe: str, forked: Any) -> None:
    """By a limit on the size of files, of which the system says the same as of a full disk, but for the words."""
    before = """
import glob, os, resource
from infomax_cli.core.trainer import Trainer
step = Trainer._make_step
def limited(self, *rest):
    if self.step == 4:
        (metrics,) = glob.glob("runs/*/metrics.jsonl")
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(metrics) + 50, resource.RLIM_INFINITY))
    step(self, *rest)
Trainer._make_step = limited
"""
    done = forked("train", recipe, before=before).wait()
    assert done.code == 1, done.err
    error, hint = done.err.splitlines()[-2:]
    run = only_run(here)
    assert error == f"error: cannot write the log in {run.path.relative_to(here)}: File too large"
    assert hint.endswith("the last checkpoint is whole")
    assert "Traceback" not in done.err
    assert load_checkpoint(run.last)["step"] == 3
    assert forked("train", "--resume").wait().code == 0
    _, whole = tiny.train(here / "whole")
    tiny.assert_same_run(whole, run)


def test_a_run_that_never_began_is_taken_away_again(here: Path, recipe: str, forked: Any) -> None:
    """The first checkpoint could not be written: there is nothing to keep."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))"
    done = forked("train", recipe, before=before).wait()
    assert done.code == 1
    assert done.err.splitlines()[-2].startswith("error: cannot write runs/tiny-")
    assert leaves_nothing(here)


# --- the screen ------------------------------------------------------------------------------------------------------


def on_a_terminal(
    forked: Any, *arguments: str, columns: int = 100, term: str = "xterm", before: str = ""
) -> tuple[int, str]:
    """What `infomax` shows on a terminal, and its exit code."""
    master, slave = pty.openpty()
    os.environ.update(COLUMNS=str(columns), TERM=term)
    child = forked(*arguments, tty=os.ttyname(slave), before=before)
    shown = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([master], [], [], 0.05)[0]:
            shown += os.read(master, 65536)
        elif child.poll() is not None:
            break
    os.close(slave)
    os.close(master)
    return child.wait().code, shown.decode()


@pytest.mark.parametrize("columns", [100, 20])
def test_on_a_terminal_there_is_a_live_table(
    columns: int, here: Path, recipe: str, forked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    slow = "import time\nfrom infomax_cli.core.trainer import Trainer as T\nstep = T._make_step\n"
    slow += "T._make_step = lambda *rest: (time.sleep(0.1), step(*rest))[1]"
    code, shown = on_a_terminal(forked, "train", recipe, columns=columns, before=slow)
    assert code == 0, shown
    assert "Traceback" not in shown
    assert "\x1b[" in shown
    if columns == 100:
        for part in ("block", "infonce", "accuracy", "items/s", "8/8", "trained runs/tiny-"):
            assert part in shown
        assert "step 2/8" not in shown  # no plain lines beside it


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    here: Path, recipe: str, forked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    code, shown = on_a_terminal(forked, "train", recipe, term="dumb")
    assert code == 0
    assert "\x1b[" not in shown
    assert "step 8/8  train  block0 infonce" in shown


def test_ctrl_c_on_a_terminal_leaves_it_tidy(
    here: Path, recipe: str, forked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    before = "import os, signal\nfrom infomax_cli.core.trainer import Trainer as T\nstep = T._make_step\n"
    before += "T._make_step = lambda *rest: (os.killpg(os.getpid(), signal.SIGINT), step(*rest))[1]"
    code, shown = on_a_terminal(forked, "train", recipe, "train.workers=2", before=before)
    assert code == 130
    assert shown.endswith("--resume\r\n")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again
    assert "Traceback" not in shown


# --- once as a user starts it ----------------------------------------------------------------------------------------


def test_the_whole_way_in_a_process_of_its_own(run_cli: Any, here: Path, recipe: str, shared_cache: Path) -> None:
    env = {"INFOMAX_CACHE": str(shared_cache)}
    done = run_cli("train", recipe, "train.steps=2", "train.workers=2", env=env, cwd=here)
    assert (done.returncode, done.stdout) == (0, f"trained {only_run(here).path.relative_to(here)}\n")
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    broken = run_cli("train", recipe, "loss.name=nothing", env=env, cwd=here)
    assert broken.returncode == 2
    assert len(broken.stderr.splitlines()) == 2
