"""`infomax decode` as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import soundfile

import tiny
from conftest import Forked, Infomax
from infomax_cli.core.subject import load_subject
from infomax_cli.runs import Run

QUICK = ("--steps", "3", "--batch", "2", "--width", "4", "--loss", "mse", "--judged-on", "4", "--items", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        return tiny.train(tmp_path_factory.mktemp("decoded"), "train.steps=2")[1]


def test_every_depth_is_reconstructed_judged_and_can_be_heard(infomax: Infomax, trained: Run) -> None:
    done = infomax("decode", str(trained.path), *QUICK)
    assert done.code == 0, done.err
    depths = [line.split()[0] for line in done.out.splitlines() if line.split() and line.split()[0].isdigit()]
    assert depths == ["0", "1", "2", "3", "4", "5"]
    assert "MCD" in done.out
    folder = trained.path / "decode" / "reconstructions"
    sounds = sorted(path.name for path in folder.glob("*.wav"))
    assert len(sounds) == 2 * 7
    samples, rate = soundfile.read(folder / "depth3-1.wav")
    assert (rate, len(samples)) == (16000, len(soundfile.read(folder / "original-1.wav")[0]))
    assert (folder / "reconstructions.png").stat().st_size > 1000
    kept = json.loads((folder / "errors.json").read_text())
    assert [row["depth"] for row in kept["depths"]] == list(range(6))
    assert f"wrote {folder / 'reconstructions.html'}" in done.err


def test_the_page_needs_no_other_file(infomax: Infomax, trained: Run) -> None:
    assert infomax("decode", str(trained.path), *QUICK).code == 0
    page = (trained.path / "decode" / "reconstructions" / "reconstructions.html").read_text()
    assert page.count("<audio") == 2 * 7
    assert all(url.startswith("data:") for url in re.findall(r"src=['\"]([^'\"]{5})", page))
    assert "http" not in page.partition("<table")[0]


@pytest.mark.parametrize(
    ("words", "folder", "sounds"),
    [
        (("--sample", "3"), "samples-prior-depth4", 3),
        (("--sample", "2", "--draws", "fitted"), "samples-fitted-depth4", 2),
        (("--interpolate", "0", "2", "--points", "4"), "interpolation-*", 4 + 2),  # with the originals
        (("--traverse", "1", "--points", "3", "--item", "1"), "traversal-1-*", 3),
    ],
)
def test_latents_are_drawn_walked_between_and_swept(
    infomax: Infomax, trained: Run, words: tuple[str, ...], folder: str, sounds: int
) -> None:
    done = infomax("decode", str(trained.path), "--depth", "4", *QUICK, *words, "--json")
    assert done.code == 0, done.err
    (found,) = (trained.path / "decode").glob(folder)
    told = json.loads(done.out)
    assert told["folder"] == str(found)
    assert len(list(found.glob("*.wav"))) == sounds
    (page,), pictures = found.glob("*.html"), list(found.glob("*.png"))
    assert len(pictures) == 1
    note = f"{told['clipped']} of {sounds} sounds reach beyond [-1, 1]"
    assert [note in text for text in (page.read_text(), done.err)] == [told["clipped"] > 0] * 2


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--depth", "6"], "--depth 6: the encoder has depths 0 to 5", "--depth all"),
        (["--depth", "top"], "--depth top: not a depth", "all, last or a number"),
        (["--loss", "mes"], "--loss mes: there is no loss 'mes'", "stft, mse, spectral, fft, mel, and sums of them"),
        (["--interpolate", "1", "1"], "--interpolate 1 1: there is nothing between an item and itself", ""),
        (["--interpolate", "0", "x"], "there is no item 'x' in the test split", "a number from 0"),
        (["--sample", "1", "--traverse", "1"], "--sample and --traverse: one at a time", ""),
        (["--draws", "fitted"], "--draws fitted is for --sample", "--sample 8"),
        (["--item", "1"], "--item 1 is for --traverse", "--traverse 0"),
        (["--sample", "1", "--draws", "normal"], "--draws normal: not known", "prior or fitted"),
        (["--depth", "0", "--traverse", "6"], "--traverse 6: depth 0 has no such dimension", "it has 6: 0 to 5"),
        (["train.lr=1"], "train.lr=1: the encoder is that of", "data.path="),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    infomax: Infomax, trained: Run, words: list[str], message: str, hint: str
) -> None:
    done = infomax("decode", str(trained.path), *QUICK, *words)
    assert (done.code, done.out) == (2, "")
    assert f"error: {message}" in done.err
    assert not hint or any(line.startswith("hint: ") and hint in line for line in done.err.splitlines())


def test_an_item_by_its_number_and_by_its_id_is_one_item(infomax: Infomax, trained: Run) -> None:
    subject = load_subject(trained, tiny.CPU)
    name = subject.dataset.split(subject.root, "test")[1, None].id
    done = infomax("decode", str(trained.path), *QUICK, "--interpolate", "1", name, "--seed", "8")
    assert done.code == 2
    assert f"error: --interpolate 1 {name}: there is nothing between an item and itself" in done.err
    assert "training" not in done.err


def test_a_second_call_leaves_nothing_of_the_first_and_other_depths_stay(infomax: Infomax, trained: Run) -> None:
    for count, depth in (("5", "3"), ("2", "3"), ("1", "2")):
        assert infomax("decode", str(trained.path), *QUICK, "--sample", count, "--depth", depth).code == 0
    sounds = {folder: len(list((trained.path / "decode" / folder).glob("*.wav")))
              for folder in ("samples-prior-depth3", "samples-prior-depth2")}  # fmt: skip
    assert sounds == {"samples-prior-depth3": 2, "samples-prior-depth2": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_says_which_decoders_are_kept(forked: Forked, trained: Run, number: signal.Signals) -> None:
    halt = (
        "from infomax_cli.core.decode import Decoding\n"
        "train = Decoding._train\n"
        "def slow(self, depth, *rest):\n"
        "    import pathlib, time\n"
        "    if depth == 2:\n"
        "        pathlib.Path('training').touch()\n"
        "        time.sleep(60)\n"
        "    train(self, depth, *rest)\n"
        "Decoding._train = slow\n"
    )
    child = forked("decode", str(trained.path), *QUICK, "--seed", "5", before=halt)
    child.wait_for("training")
    child.signal(number)
    done = child.wait()
    assert done.code == 130
    assert f"stopped: decoders of depth 0, 1 are kept in {trained.path / 'decode'}" in done.err
    assert "Traceback" not in done.err


def test_a_run_that_cannot_be_written_is_told_before_anything_is_trained(
    infomax: Infomax, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = infomax("decode", str(trained.path), *QUICK, "--seed", "9")
    assert done.code == 1
    assert f"error: cannot write in {trained.path / 'decode'}: Permission denied" in done.err


def test_items_shorter_than_the_encoder_sees_are_told(infomax: Infomax, here: Path) -> None:
    for name in range(6):
        soundfile.write(here / f"{name}.wav", [0.1] * 30, 16000)
    recipe = tiny.write_recipe(here, f"data: {{name: folder, path: {here}, crop: 1600, validation_fraction: 0.0}}")
    assert infomax("train", str(recipe), "train.steps=1").code == 0
    done = infomax("decode", *QUICK, "--depth", "0")
    assert done.code == 1
    assert "error: decode: there is no item in the test split to decode: item " in done.err
    assert "speech_conv needs at least" in done.err
    one = infomax("decode", *QUICK, "--depth", "0", "--traverse", "0", "--item", "0")
    assert one.code == 2
    assert "error: item " in one.err
    assert not list(here.glob("runs/*/decode"))  # told before anything is trained


def test_items_that_are_too_short_are_passed_over_and_left_out(infomax: Infomax, here: Path) -> None:
    for name in range(40):
        file = here / "mixed" / "ab"[name // 2 % 2] / f"{name:02}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, [0.1] * (30 if name % 2 else 4000), 16000)
    data = f"{{name: folder, path: {here / 'mixed'}, crop: 1600, label_from: parent}}"
    recipe = tiny.write_recipe(here, f"data: {data}")
    assert infomax("train", str(recipe), "train.steps=1").code == 0
    done = infomax("decode", *QUICK, "--depth", "0")
    assert done.code == 0, done.err
    told = infomax("explain", "--label", "class")
    assert told.code == 0, told.err
    assert "of test left out: too short for the encoder" in told.err
